"""Load a configuration, or what is wrong with it."""

import pytest

from proxy.settings import (
    BadConfigurationError,
    load,
)


@pytest.fixture
def configure(tmp_path):
    """Write a configuration file and load it."""

    def configured(text, *, environ=None, flags=None, name="offramp.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return load(file, environ={"HOME": str(tmp_path)} | (environ or {}), flags=flags)

    return configured


@pytest.fixture
def complaints(configure, tmp_path):
    """Load a bad configuration and return what is said, with the file's name shortened."""

    def complained(text, **sources):
        with pytest.raises(BadConfigurationError) as raised:
            configure(text, **sources)
        return [str(one).replace(f"{tmp_path}/", "") for one in raised.value.complaints]

    return complained

"""A package that is called like ours."""

from importlib.metadata import PathDistribution

import pytest

from proxy.cli.namesake import refuse_namesake
from proxy.core.errors import ConfigError


@pytest.fixture
def installed(tmp_path):
    """Install a distribution, as far as its list of files goes."""

    def made(name, *files):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return PathDistribution(folder)

    return made


def test_another_distribution_with_a_package_proxy_is_refused_by_name(installed):
    ours = installed("offramp", "proxy/__init__.py", "policies/__init__.py")
    theirs = installed("proxy.py", "other.py", "proxy/__init__.py")

    with pytest.raises(ConfigError, match=r"'proxy\.py'") as raised:
        refuse_namesake([ours, theirs])

    assert "pip uninstall proxy.py" in str(raised.value.hint)


def test_packages_that_only_sound_alike_are_welcome(installed):
    refuse_namesake(
        [
            installed("offramp", "proxy/__init__.py"),
            installed("aproxy", "aproxy/__init__.py", "lib/proxy/__init__.py"),
            installed("b", "proxy_tools/__init__.py", "proxy.py"),
            PathDistribution(installed("c")._path.parent / "gone.dist-info"),
        ]
    )


def test_this_environment_is_ours_alone():
    refuse_namesake()

"""The rows of all families, and what is asked of one."""

import pytest

from proxy.core.dialects import DIALECTS, Dialect, Endpoint, Shape


@pytest.mark.parametrize(("name", "dialect"), DIALECTS.items())
def test_every_row_is_consistent(name: str, dialect: Dialect) -> None:
    assert dialect.name == name
    for path, endpoint in dialect.endpoints.items():
        assert endpoint.path == path
        assert path.startswith("/") or dialect.model_paths is not None
    assert set(dialect.streamed.values()) <= set(dialect.endpoints)
    names = (*dialect.credential_headers, *dialect.billing_headers, *dialect.batch_headers)
    assert all(header == header.lower() for header in names)


def test_an_endpoint_is_batched_unless_its_row_says_otherwise() -> None:
    assert Endpoint(path="/x", shape=Shape.CHAT, required=()).batched

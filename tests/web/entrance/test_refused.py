import json

import pytest

from proxy.core.dialects import Family
from proxy.core.errors import CallerError, StoppingError, StoreUnavailableError
from proxy.web.entrance.refused import refusal


@pytest.mark.parametrize(
    ("error", "status", "pause"),
    [
        (CallerError("no model", code="missing"), 400, None),
        (StoreUnavailableError("the disk is full"), 503, "5"),
        (StoppingError("it stops"), 503, "1"),
    ],
)
@pytest.mark.parametrize("family", Family)
def test_a_refusal_says_when_to_come_again_if_that_helps(family, error, status, pause):
    answer = refusal(family, error)

    assert (answer.status, dict(answer.headers).get("Retry-After")) == (status, pause)
    assert json.loads(answer.body)["error"]["message"] == error.message

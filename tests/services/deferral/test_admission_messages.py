"""Calls of the Messages API: what is checked before they are deferred."""

import json
from typing import Any

import pytest

from proxy.core.affinity import DIGITS
from proxy.core.body import parse_body
from proxy.core.dialects import DIALECTS, place_for
from proxy.core.errors import CallerError
from proxy.services.deferral.admission import Admitted, admit

DIALECT = DIALECTS["anthropic"]


def admitted(**changes: Any) -> Admitted:
    body = {
        "model": "claude-haiku-4-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "hello"}],
        **changes,
    }
    kept = {name: value for name, value in body.items() if value is not None}
    endpoint = place_for(DIALECT, "/v1/messages?beta=true")
    assert endpoint is not None
    parsed = parse_body(json.dumps(kept).encode(), max_bytes=1_000_000)
    return admit(parsed, endpoint, max_line_bytes=1_000_000)


def test_a_message_call_can_run_later():
    call = admitted(stream=True, service_tier="auto")

    assert (call.model, call.fits_a_batch) == ("claude-haiku-4-5", True)
    assert set(json.loads(call.line_body)) == {"model", "max_tokens", "messages"}


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens"])
def test_what_the_provider_requires_is_required(name):
    with pytest.raises(CallerError) as raised:
        admitted(**{name: None})

    assert raised.value.param == name


def test_tokens_are_a_number():
    with pytest.raises(CallerError) as raised:
        admitted(max_tokens="many")

    assert raised.value.param == "max_tokens"


@pytest.mark.parametrize(
    "change", [{"speed": "fast"}, {"fallbacks": [{"model": "x"}]}, {"max_tokens": 0}]
)
def test_what_a_batch_refuses_is_known_beforehand(change):
    assert not admitted(**change).fits_a_batch


@pytest.mark.parametrize(
    "system", ["be brief", [{"type": "text", "text": "be brief", "cache_control": {"type": "x"}}]]
)
def test_calls_with_one_system_prompt_stand_together(system):
    first = admitted(system=system)
    second = admitted(system=system, messages=[{"role": "user", "content": "other"}])

    alike = first.affinity[:DIGITS]
    assert second.affinity.startswith(alike)
    assert not admitted(system="be verbose").affinity.startswith(alike)
    assert not admitted().affinity.startswith(alike)


@pytest.mark.parametrize(
    "target", ["/v1/messages/count_tokens", "/v1/messages/batches", "/v1/complete"]
)
def test_nothing_else_is_deferrable(target):
    assert place_for(DIALECT, target) is None


@pytest.mark.parametrize(
    ("query", "idle"), [("", True), ("beta=true", True), ("beta=false", False)]
)
def test_a_query_that_sdks_add_keeps_nothing_out_of_a_batch(query, idle):
    assert DIALECT.is_idle_query(query) is idle

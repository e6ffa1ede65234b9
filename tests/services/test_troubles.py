"""Why an upstream does not answer, as those are told who wait for it."""

from datetime import timedelta

import pytest
import structlog

from proxy.core.errors import CredentialRefusedError, ProviderBusyError, ProviderUnavailableError
from proxy.core.lanes import Lane
from proxy.ports.upstream import Phase, UpstreamUnavailableError
from proxy.services.troubles import Troubles
from tests.helpers.factories import T0
from tests.helpers.fleet import Fleet


def test_the_words_are_those_of_the_cause():
    troubles = Troubles()
    error = ProviderUnavailableError("POST /v1/x at openai: connection refused")
    error.__cause__ = OSError("connection refused")

    troubles.note("openai", error, at=T0)

    assert troubles.all() == {"openai": "connection refused"}


def test_who_runs_the_proxy_is_told_what_was_tried():
    troubles = Troubles()
    error = ProviderUnavailableError("POST /v1/x at openai: no way")
    error.__cause__ = UpstreamUnavailableError(
        "no way", phase=Phase.CONNECT, cause="refused", sent=False, detail="no way through proxy:1"
    )

    troubles.note("openai", error, at=T0)

    assert troubles.all() == {"openai": "no way through proxy:1"}


def test_an_error_without_words_is_named_and_a_page_is_cut():
    troubles = Troubles()

    troubles.note("openai", TimeoutError(), at=T0)
    troubles.note("groq", ValueError("x" * 10_000), at=T0)

    assert troubles.all().get("openai") == "TimeoutError"
    assert len(troubles.all().get("groq") or "") == 300


def test_an_upstream_that_answers_is_in_no_trouble():
    troubles = Troubles()
    troubles.note("openai", TimeoutError("timed out"), at=T0)

    troubles.are_over("openai")
    troubles.are_over("openai")

    assert troubles.all().get("openai") is None


@pytest.mark.parametrize(
    ("error", "silent"),
    [
        (ProviderUnavailableError("no answer"), True),
        (ProviderBusyError("not sent", sent=False), True),
        (TimeoutError(), True),
        (ProviderBusyError("slow down", status_code=429), False),
        (CredentialRefusedError("somebody's key", status_code=401), False),
    ],
    ids=["unavailable", "unsent", "timeout", "busy", "refused"],
)
def test_what_is_told_to_anybody_is_when_an_upstream_gave_no_answer(error, silent):
    troubles = Troubles()
    troubles.note("openai", error, at=T0)

    assert troubles.silent_at("openai", T0) == (T0 if silent else None)
    assert troubles.silent_at("openai", T0 + timedelta(seconds=1)) is None
    assert troubles.silent_at("groq", T0) is None


async def test_a_batch_that_is_put_back_says_why_until_one_is_taken() -> None:
    fleet = Fleet()
    fleet.will("upload", "unavailable")
    troubles = fleet.instances[0].ground.troubles

    await fleet.submit(12)
    told = troubles.all().get("openai")
    await fleet.wait(timedelta(seconds=30), "submit")

    assert told
    assert troubles.all().get("openai") is None


async def test_a_direct_call_without_an_answer_says_why_until_one_is_answered() -> None:
    fleet = Fleet()
    await fleet.accept(lane=Lane.INTERACTIVE)
    fleet.will("call", "lost_before")
    troubles = fleet.instances[0].ground.troubles

    with structlog.testing.capture_logs() as logs:
        await fleet.run("live", "escalate")
    told = troubles.all().get("openai")
    await fleet.wait(timedelta(seconds=30), "escalate")

    (line,) = [line for line in logs if line["event"] == "call.unanswered"]
    assert (line["upstream"], line["log_level"]) == ("openai", "warning")
    assert "refused" in line["error"]
    assert told == "refused"
    assert troubles.all().get("openai") is None

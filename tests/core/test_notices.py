"""When a webhook is told again, and by what it knows who tells it."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import InvalidWebhookSignatureError, OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from proxy.core.errors import ConfigError
from proxy.core.notices import (
    RETRIES,
    RETRY_AFTER_MAX,
    Notice,
    Reached,
    endpoint_at,
    message_id,
    next_attempt,
    reached,
    signed_headers,
)
from tests.helpers.factories import IDS, T0

SECRET = b"k" * 32
BODY = b'{"type":"job.completed"}'


def real_time() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - with which the library compares


def notice(attempts: int = 0) -> Notice:
    return Notice(job_id=IDS.job(), webhook="done", owed_since=T0, attempts=attempts)


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (200, Reached.DELIVERED),
        (204, Reached.DELIVERED),
        (299, Reached.DELIVERED),
        (301, Reached.REDIRECTED),
        (304, Reached.REDIRECTED),
        (400, Reached.REFUSED),
        (410, Reached.GONE),
        (429, Reached.REFUSED),
        (500, Reached.BROKEN),
        (503, Reached.BROKEN),
    ],
)
def test_only_a_2xx_is_a_delivery(status, meaning):
    assert reached(status) is meaning


def test_the_attempts_lie_as_the_standard_recommends():
    at, since_start = T0, []
    for attempts in range(len(RETRIES)):
        again = next_attempt(notice(attempts), Reached.BROKEN, now=at, jitter=1.0)
        assert again is not None
        at = again
        since_start.append(at - T0)

    assert since_start[0] == timedelta(seconds=5)
    assert since_start[3] == timedelta(hours=2, minutes=35, seconds=5)
    assert since_start[-1] == timedelta(hours=75, minutes=35, seconds=5)
    assert next_attempt(notice(len(RETRIES)), Reached.BROKEN, now=at, jitter=1.0) is None


@given(jitter=st.floats(0.9, 1.1), attempts=st.integers(0, len(RETRIES) - 1))
def test_jitter_spreads_a_pause_and_never_makes_it_another_one(jitter, attempts):
    again = next_attempt(notice(attempts), Reached.BROKEN, now=T0, jitter=jitter)

    assert again is not None
    assert 0.9 * RETRIES[attempts] <= again - T0 <= 1.1 * RETRIES[attempts]


def test_an_endpoint_may_ask_for_a_longer_pause_and_not_for_a_shorter_one():
    def pause(retry_after: timedelta) -> timedelta:
        again = next_attempt(notice(), Reached.REFUSED, now=T0, jitter=1.0, retry_after=retry_after)
        assert again is not None
        return again - T0

    assert pause(timedelta(minutes=9)) == timedelta(minutes=9)
    assert pause(timedelta(0)) == RETRIES[0]
    assert pause(timedelta(days=400)) == RETRY_AFTER_MAX


@given(jitter=st.floats(0.9, 1.1), asked_s=st.integers(0, 86_400))
def test_an_endpoint_is_not_asked_again_before_the_time_that_it_said(jitter, asked_s):
    asked = timedelta(seconds=asked_s)
    again = next_attempt(notice(), Reached.BROKEN, now=T0, jitter=jitter, retry_after=asked)

    assert again is not None
    assert asked <= again - T0 <= max(asked, RETRIES[0]) * 1.1


def test_an_endpoint_that_is_gone_is_not_asked_again():
    assert next_attempt(notice(), Reached.GONE, now=T0, jitter=1.0) is None


def test_the_standards_own_library_verifies_what_is_signed():
    now = real_time()
    message = message_id(IDS.job())

    headers = signed_headers(message, BODY, at=now, secrets=[SECRET])

    assert Webhook(SECRET).verify(BODY, headers) == json.loads(BODY)


def test_the_openai_sdk_verifies_what_is_signed_with_the_prefix_before_its_secret():
    headers = signed_headers("msg_1", BODY, at=real_time(), secrets=[b"old" * 10, SECRET])
    webhooks = OpenAI(api_key="none").webhooks
    secret = b64encode(SECRET).decode()

    webhooks.verify_signature(BODY, headers, secret=f"whsec_{secret}")
    with pytest.raises(InvalidWebhookSignatureError):
        webhooks.verify_signature(BODY, headers, secret=secret)


def test_a_changed_body_or_another_secret_is_not_verified():
    now = real_time()
    headers = signed_headers("msg_1", BODY, at=now, secrets=[SECRET])

    for secret, body in ((SECRET, BODY + b" "), (b"x" * 32, BODY)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers)


def test_a_message_keeps_its_id_and_every_attempt_has_its_own_time():
    job_id = IDS.job()
    first = signed_headers(message_id(job_id), BODY, at=T0, secrets=[SECRET])
    later = T0 + timedelta(hours=2)
    again = signed_headers(message_id(job_id), BODY, at=later, secrets=[SECRET])

    assert first["webhook-id"] == again["webhook-id"]
    assert "." not in first["webhook-id"]
    assert int(again["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 7200
    assert first["webhook-signature"] != again["webhook-signature"]


def test_while_a_secret_is_changed_both_sign():
    now = real_time()
    headers = signed_headers("msg_1", BODY, at=now, secrets=[b"new" * 10, SECRET])

    for secret in (b"new" * 10, SECRET):
        assert Webhook(secret).verify(BODY, headers)


@pytest.mark.parametrize("rest", ["?a b", "?a#b", "?\u00fc", "?a\r\nX: y", "#b", "/a b"])
def test_an_address_that_no_server_could_read_is_refused(rest):
    with pytest.raises(ConfigError):
        endpoint_at(f"https://hooks.example{rest}")

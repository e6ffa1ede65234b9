"""Which credential speaks to a provider, and what its refusal leads to."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from proxy.core.errors import (
    CredentialRefusedError,
    ProviderRejectedError,
    ProviderUnavailableError,
)
from proxy.core.ids import CredentialId
from proxy.ports.jobs import Credential
from proxy.services.access import Access
from tests.helpers.factories import CREDENTIAL, OWNER, T0, make_batch, make_credential
from tests.helpers.fakes import FakeClock, MemoryStores
from tests.helpers.fleet import TallyCounter

OTHER = CredentialId("credential-2")
BATCH = make_batch()


class Rig:
    """One owner with two credentials, and a provider that says who may."""

    def __init__(self) -> None:
        self.clock = FakeClock(T0)
        self.store = MemoryStores().credentials
        self.tally = TallyCounter()
        self.access = Access(
            providers={}, credentials=self.store, clock=self.clock, tally=self.tally
        )
        self.errors: dict[str, Exception] = {}
        self.asked: list[str] = []

    async def filled(self, *ids: CredentialId) -> "Rig":
        for credential_id in ids:
            await self.store.remember(make_credential(id=credential_id))
        return self

    async def operation(self, credential: Credential) -> str:
        self.asked.append(credential.id)
        if credential.id in self.errors:
            raise self.errors[credential.id]
        return f"read with {credential.id}"


REFUSED = CredentialRefusedError("no", status_code=401, body=b"no")
UNSEEN = ProviderRejectedError("no such batch", status_code=404)


def test_an_upstream_without_a_batch_api_has_no_provider() -> None:
    assert Rig().access.provider("openai") is None


async def test_a_credential_that_is_paused_or_unknown_buys_nothing() -> None:
    rig = await Rig().filled(CREDENTIAL)

    assert await rig.access.own(CREDENTIAL) == make_credential()
    assert await rig.access.own(OTHER) is None
    await rig.access.pause(CREDENTIAL, REFUSED)
    assert await rig.access.own(CREDENTIAL) is None


async def test_a_pause_keeps_the_providers_words_and_is_counted_once() -> None:
    rig = await Rig().filled(CREDENTIAL)

    await rig.access.pause(CREDENTIAL, REFUSED)
    rig.clock.advance(minutes=5)
    await rig.access.pause(CREDENTIAL, REFUSED)

    paused = await rig.store.get(CREDENTIAL)
    assert paused is not None
    assert (paused.paused_at, paused.pause_status, paused.pause_body) == (T0, 401, b"no")
    assert rig.tally.counts["credential_paused"] == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"code": "billing_not_active", "message": "no"}}', "billing_not_active"),
        (b'{"error": {"code": "%b"}}' % (b"x" * 300), "x" * 64),
        (b"no", None),
        (None, None),
    ],
    ids=["a code", "a long one", "no JSON", "nothing"],
)
async def test_the_log_says_why_a_credential_was_paused(
    body: bytes | None, code: str | None
) -> None:
    rig = await Rig().filled(CREDENTIAL)

    with capture_logs() as logs:
        await rig.access.pause(CREDENTIAL, CredentialRefusedError("no", status_code=429, body=body))

    (line,) = logs
    assert (line["event"], line["upstream"], line["code"]) == ("credential.paused", "openai", code)


@pytest.mark.parametrize(
    ("refusal", "counted"),
    [
        (
            CredentialRefusedError("no", status_code=429, body=b'{"error": {"code": "%b"}}' % code),
            label,
        )
        for code, label in [(b"billing_not_active", "billing_not_active"), (b"made_up", "429")]
    ]
    + [
        (CredentialRefusedError("no", code="invalid_api_key"), "invalid_api_key"),
        (REFUSED, "401"),
        (CredentialRefusedError("no"), "unknown"),
    ],
    ids=["a code", "one nobody knows", "a code without a body", "a status", "nothing"],
)
async def test_a_pause_is_counted_under_a_code_that_is_one_of_few(
    refusal: CredentialRefusedError, counted: str
) -> None:
    rig = await Rig().filled(CREDENTIAL)

    await rig.access.pause(CREDENTIAL, refusal)

    assert rig.tally.labels["credential_paused"] == [{"code": counted}]


async def test_a_second_pause_after_a_good_day_counts_again() -> None:
    rig = await Rig().filled(CREDENTIAL)

    await rig.access.pause(CREDENTIAL, REFUSED)
    await rig.store.accepted(CREDENTIAL, at=T0 + timedelta(days=1))
    await rig.access.pause(CREDENTIAL, REFUSED)

    assert rig.tally.counts["credential_paused"] == 2


async def test_a_batch_is_read_with_its_own_credential_first() -> None:
    rig = await Rig().filled(OTHER, CREDENTIAL)

    assert await rig.access.with_any_credential(BATCH, rig.operation) == f"read with {CREDENTIAL}"
    assert rig.asked == [CREDENTIAL]


async def test_even_a_paused_credential_may_read_what_is_free() -> None:
    rig = await Rig().filled(CREDENTIAL)
    await rig.access.pause(CREDENTIAL, REFUSED)

    assert await rig.access.with_any_credential(BATCH, rig.operation) == f"read with {CREDENTIAL}"


async def test_a_refused_one_is_paused_and_the_owners_others_are_tried() -> None:
    rig = await Rig().filled(CREDENTIAL, OTHER)
    rig.errors[CREDENTIAL] = REFUSED

    assert await rig.access.with_any_credential(BATCH, rig.operation) == f"read with {OTHER}"

    paused = await rig.store.get(CREDENTIAL)
    assert paused is not None
    assert paused.paused_at == T0


async def test_another_owners_credential_is_never_tried() -> None:
    rig = await Rig().filled(CREDENTIAL)
    await rig.store.remember(make_credential(id=OTHER, owner="owner-2"))
    await rig.store.remember(make_credential(id=CredentialId("credential-3"), upstream="groq"))
    rig.errors[CREDENTIAL] = REFUSED

    with pytest.raises(CredentialRefusedError):
        await rig.access.with_any_credential(BATCH, rig.operation)

    assert rig.asked == [CREDENTIAL]


@pytest.mark.parametrize("theirs", [UNSEEN, CredentialRefusedError("no", status_code=403)])
async def test_when_no_other_may_the_refusal_of_its_own_counts(theirs: Exception) -> None:
    rig = await Rig().filled(CREDENTIAL, OTHER)
    rig.errors = {CREDENTIAL: REFUSED, OTHER: theirs}

    with pytest.raises(CredentialRefusedError) as raised:
        await rig.access.with_any_credential(BATCH, rig.operation)

    assert raised.value is REFUSED
    assert rig.asked == [CREDENTIAL, OTHER]
    other = await rig.store.get(OTHER)
    assert other is not None
    assert other.paused_at is None


async def test_what_its_own_credential_is_told_about_the_batch_is_the_truth() -> None:
    rig = await Rig().filled(CREDENTIAL, OTHER)
    rig.errors[CREDENTIAL] = UNSEEN

    with pytest.raises(ProviderRejectedError) as raised:
        await rig.access.with_any_credential(BATCH, rig.operation)

    assert raised.value is UNSEEN
    assert rig.asked == [CREDENTIAL]


async def test_a_provider_that_is_down_is_not_asked_with_every_key() -> None:
    rig = await Rig().filled(CREDENTIAL, OTHER)
    rig.errors[CREDENTIAL] = ProviderUnavailableError("503")

    with pytest.raises(ProviderUnavailableError):
        await rig.access.with_any_credential(BATCH, rig.operation)

    assert rig.asked == [CREDENTIAL]


async def test_a_batch_whose_credential_was_forgotten_is_refused() -> None:
    rig = await Rig().filled(OTHER)

    with pytest.raises(CredentialRefusedError, match="not known any more"):
        await rig.access.with_any_credential(BATCH, rig.operation)

    assert make_credential().owner == OWNER
    assert rig.asked == []

"""What every `UnbatchableStore` must do."""

from datetime import timedelta

from proxy.core.ids import CredentialId
from tests.helpers.factories import CREDENTIAL, T0

HOUR = timedelta(hours=1)
CHAT = "/v1/chat/completions"


async def test_a_refused_model_is_known_until_its_time(stores):
    await stores.unbatchable.note(CREDENTIAL, CHAT, "gpt\ud800", until=T0 + HOUR)

    place = (CREDENTIAL, CHAT, "gpt\ud800")
    assert await stores.unbatchable.known(now=T0) == {place: T0 + HOUR}
    assert await stores.unbatchable.known(now=T0 + HOUR) == {}


async def test_a_later_refusal_moves_the_time(stores):
    for hours in (1, 3):
        await stores.unbatchable.note(CREDENTIAL, CHAT, "o3", until=T0 + hours * HOUR)

    assert await stores.unbatchable.known(now=T0) == {(CREDENTIAL, CHAT, "o3"): T0 + 3 * HOUR}


async def test_another_credential_endpoint_or_model_is_another_matter(stores):
    places = {
        (CREDENTIAL, CHAT, "o3"),
        (CREDENTIAL, CHAT, "o4"),
        (CREDENTIAL, "/v1/responses", "o3"),
        (CredentialId("other"), CHAT, "o3"),
    }
    for place in places:
        await stores.unbatchable.note(*place, until=T0 + HOUR)

    assert set(await stores.unbatchable.known(now=T0)) == places

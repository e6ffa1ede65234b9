"""Who is let in to an upstream whose key is held here, and what of a call is exchanged."""

import pytest

from proxy.core.dialects import DIALECTS, credential_hash, presented_credential
from proxy.core.errors import CallerError
from proxy.core.ids import CredentialId, OwnerId
from proxy.core.routing import resolve
from proxy.core.upstream import Upstream
from proxy.ports.jobs import Credential
from proxy.services.callers.clients import Clients, HeldCredentials, HeldKey
from proxy.services.callers.owners import HELD, Owners
from tests.helpers.factories import T0
from tests.helpers.fakes import FakeHash, MemoryStores

UPSTREAMS = {
    "openai": Upstream.parse("openai", "openai", "https://api.openai.com"),
    "anthropic": Upstream.parse("anthropic", "anthropic", "https://api.anthropic.com"),
    "gemini": Upstream.parse("gemini", "gemini", "https://generativelanguage.googleapis.com"),
    "azure": Upstream.parse("azure", "azure", "https://x.openai.azure.com"),
    "open": Upstream.parse("open", "openai", "https://open.example"),
}
TOKEN = "of-canary-token"
KEY = "sk-provider-canary"
CHAT = "/openai/v1/chat/completions"


def make_clients(*, paths=()):
    def held(dialect):
        return HeldKey.of(dialect, KEY, clients=[credential_hash(TOKEN)], paths=paths)

    return Clients({name: held(name) for name in ("openai", "anthropic", "gemini", "azure")})


def admit(clients, target=CHAT, *, method="POST", token=TOKEN, **fields):
    headers = [(b"Authorization", f"Bearer {token}".encode())] if token else []
    headers += [(name.replace("_", "-").encode(), value) for name, value in fields.items()]
    route = resolve(target, tuple(headers), UPSTREAMS)
    return clients.admit(method, tuple(headers), route)


def refusal(clients, *words, **fields):
    with pytest.raises(CallerError) as caught:
        admit(clients, *words, **fields)
    assert TOKEN not in caught.value.message
    return caught.value.http_status, caught.value.code


def test_a_known_token_is_exchanged_for_the_providers_key():
    exchange = admit(make_clients())

    assert exchange.more == ((b"Authorization", f"Bearer {KEY}".encode()),)
    assert {b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"} <= exchange.without
    assert KEY not in repr(exchange)


@pytest.mark.parametrize(
    ("target", "field", "sent"),
    [
        ("/anthropic/v1/messages", "x_api_key", (b"X-Api-Key", KEY.encode())),
        ("/azure/v1/chat/completions", "api_key", (b"Api-Key", KEY.encode())),
        (
            "/gemini/v1beta/models/gemini-2.5-flash:generateContent",
            "x_goog_api_key",
            (b"X-Goog-Api-Key", KEY.encode()),
        ),
    ],
)
def test_each_dialect_presents_the_key_as_its_provider_wants_it(target, field, sent):
    exchange = admit(make_clients(), target, token=None, **{field: TOKEN.encode()})

    assert exchange.more == (sent,)


def test_a_token_in_the_query_does_not_go_on():
    target = f"/gemini/v1beta/models/gemini-2.5-flash:generateContent?alt=sse&key={TOKEN}"

    exchange = admit(make_clients(), target, token=None)

    assert exchange.route.upstream_target == (
        "/v1beta/models/gemini-2.5-flash:generateContent?alt=sse"
    )


@pytest.mark.parametrize("token", [None, "of-another", TOKEN[:-1], TOKEN + "x", TOKEN.upper()])
def test_without_a_known_token_nothing_is_called(token):
    assert refusal(make_clients(), token=token) == (401, "invalid_client_token")


def test_a_client_token_never_goes_to_an_upstream_that_it_is_not_for():
    clients = make_clients()

    assert refusal(clients, "/open/v1/chat/completions") == (403, "client_not_allowed")
    assert admit(clients, "/open/v1/chat/completions", token="sk-own") is None


@pytest.mark.parametrize("upstream", ["openai", "open"])
@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?user=of%2Dcanary-token", {}),
        (f"?a=b&c={TOKEN}", {}),
        ("", {"cookie": f'a=b; session="{TOKEN}"'.encode()}),
        ("", {"proxy_authorization": f"Bearer {TOKEN}".encode()}),
        ("", {"x_trace": f"one,{TOKEN}".encode()}),
    ],
)
def test_a_token_that_is_shown_in_a_second_place_does_not_go_on(upstream, query, fields):
    token = TOKEN if upstream == "openai" else "sk-own"
    target = f"/{upstream}/v1/chat/completions{query}"

    assert refusal(make_clients(), target, token=token, **fields) == (403, "client_not_allowed")


def test_a_token_beside_a_key_of_the_callers_own_does_not_go_on():
    fields = {"x_api_key": TOKEN.encode()}

    told = refusal(make_clients(), "/open/v1/chat/completions", token="sk-own", **fields)

    assert told == (403, "client_not_allowed")
    # Where a key is held, every place of a token is emptied.
    assert admit(make_clients(), **fields) is not None


@pytest.mark.parametrize("parameter", ["api_key", "access_token", "token"])
def test_a_token_in_the_query_beside_a_key_of_the_callers_own_does_not_go_on(parameter):
    target = f"/open/v1/chat/completions?{parameter}={TOKEN}"

    assert refusal(make_clients(), target, token="sk-own") == (403, "client_not_allowed")


def test_a_websocket_that_names_its_token_among_the_subprotocols_is_not_let_in():
    protocol = f"realtime, openai-insecure-api-key.{TOKEN}".encode()

    clients = make_clients(paths=["/v1/*"])

    for target in ("/openai/v1/realtime", "/open/v1/realtime"):
        for token in (TOKEN, "sk-own", None):
            told = refusal(clients, target, token=token, sec_websocket_protocol=protocol)
            assert told == (403, "client_not_allowed")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/openai/v1/embeddings"),
        ("GET", "/openai/v1/models"),
        ("GET", "/openai/v1/models/gpt-4o-mini"),
        ("POST", "/anthropic/v1/messages/count_tokens"),
        ("POST", "/gemini/v1beta/models/gemini-2.5-flash:countTokens"),
    ],
)
def test_a_client_reaches_what_a_model_computes(method, path):
    token = {"x_api_key": TOKEN.encode()} if path.startswith("/anthropic") else {}
    assert admit(make_clients(), path, method=method, **token) is not None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/openai/v1/files"),
        ("GET", "/openai/v1/batches"),
        ("GET", "/openai/v1/files/file-1/content"),
        ("GET", "/openai/v1/chat/completions"),
        ("DELETE", "/openai/v1/models/ft:gpt"),
        ("GET", "/openai/v1/models/../files"),
        ("GET", "/openai/v1/models/%2e%2e/files"),
        ("GET", "/openai/v1/models//x"),
        ("POST", "/openai/v1/organization/admin_api_keys"),
        ("GET", "/gemini/v1beta/models/../files:countTokens"),
        ("GET", "/gemini/v1beta/models/gemini-2.5-flash:countTokens"),
        ("GET", "/gemini/v1beta/models/gemini-2.5-flash/operations/op-1"),
        ("GET", "/gemini/v1/models/gemini-2.5-flash/operations/op-1"),
        ("POST", "/gemini/v1beta/models/x/y:countTokens"),
        ("DELETE", "/anthropic/v1/messages/count_tokens"),
    ],
)
def test_what_belongs_to_all_clients_is_reached_by_none(method, path):
    fields = {"x_api_key": TOKEN.encode()} if path.startswith("/anthropic") else {}
    told = refusal(make_clients(), path, method=method, **fields)

    assert told == (403, "client_not_allowed")


def test_the_operator_may_open_further_paths():
    clients = make_clients(paths=["/v1/images/*"])

    assert admit(clients, "/openai/v1/images/generations") is not None
    assert refusal(clients, "/openai/v1/images/../files") == (403, "client_not_allowed")
    assert refusal(clients, "/openai/v1/files") == (403, "client_not_allowed")


def test_where_no_key_is_held_nothing_is_asked():
    assert admit(Clients({}), token=None) is None


async def test_the_key_is_put_in_on_reading_and_never_stored():
    stores = MemoryStores()
    owners = Owners(keyed_hash=FakeHash(), names={credential_hash(TOKEN): "etl"}, held=["openai"])
    caller = owners.identify(_presented(TOKEN), "openai")
    keys = {"openai": HeldKey.of("openai", KEY, clients=[credential_hash(TOKEN)])}
    store = HeldCredentials(stores.credentials, keys)

    await store.remember(caller.credential)

    (stored,) = await stores.credentials.all()
    assert stored.headers == (HELD,)
    for read in (
        await store.get(caller.credential.id),
        *await store.of_owner(OwnerId("etl"), "openai"),
        *await store.all(),
    ):
        assert read is not None
        assert read.headers == (("authorization", f"Bearer {KEY}"),)
    assert caller.is_vouched
    assert caller.owner == "etl"


async def test_pending_jobs_follow_a_key_that_was_replaced_and_outlive_one_that_is_gone():
    stores = MemoryStores()
    credential = Credential(
        id=CredentialId("c"), owner=OwnerId("etl"), upstream="openai", headers=(HELD, ("a", "b"))
    )
    await stores.credentials.remember(credential)
    newer = {"openai": HeldKey.of("openai", "sk-newer", clients=["x"])}

    replaced = await HeldCredentials(stores.credentials, newer).get(credential.id)
    gone = await HeldCredentials(stores.credentials, {}).get(credential.id)

    assert replaced is not None
    assert gone is not None
    assert replaced.headers == (("authorization", "Bearer sk-newer"), ("a", "b"))
    assert gone.headers == (("a", "b"),)


async def test_what_is_not_held_passes_as_it_is():
    stores = MemoryStores()
    store = HeldCredentials(stores.credentials, {})
    own = Credential(
        id=CredentialId("c"), owner=OwnerId("o"), upstream="open", headers=(("x-api-key", "sk"),)
    )

    await store.remember(own)
    await store.pause(own.id, at=T0, status=401, body=None)
    paused = await store.get(own.id)
    await store.accepted(own.id, at=T0)
    lifted = await store.get(own.id)

    assert paused is not None
    assert lifted is not None
    assert paused.headers == own.headers
    assert (paused.paused_at, lifted.paused_at) == (T0, None)
    assert await store.get(CredentialId("nobody")) is None
    assert await store.forget_unused(limit=10) >= 0


def _presented(token):
    return presented_credential(
        DIALECTS["openai"], ((b"Authorization", f"Bearer {token}".encode()),)
    )

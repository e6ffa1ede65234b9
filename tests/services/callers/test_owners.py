"""Who calls: hashes of tokens, names for several, and tokens that say when they end."""

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime

import pytest

from proxy.core.dialects import DIALECTS, Presented, credential_hash, presented_credential
from proxy.core.ids import ANONYMOUS, OwnerId
from proxy.services.callers.owners import (
    Owners,
    owns,
    query_key,
    token_expiry,
)
from tests.helpers.fakes import FakeHash


def make_owners():
    return Owners(keyed_hash=FakeHash(), names={})


def presented(token, dialect="openai", name=b"Authorization", **billing):
    value = f"Bearer {token}" if name.lower() == b"authorization" else token
    headers = [(name, value.encode())]
    headers += [(key.replace("_", "-").encode(), text.encode()) for key, text in billing.items()]
    return presented_credential(DIALECTS[dialect], tuple(headers))


def jwt(**claims):
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def test_an_owner_is_its_token_wherever_and_however_it_is_presented():
    owners = make_owners()

    bearer = owners.identify(presented("sk-1"), "openai")
    api_key = owners.identify(presented("sk-1", "anthropic", b"X-Api-Key"), "anthropic")

    assert bearer.owner == api_key.owner
    assert bearer.credential.id != api_key.credential.id
    assert owners.identify(presented("sk-2"), "openai").owner != bearer.owner


def test_the_owner_does_not_contain_the_token():
    caller = make_owners().identify(presented("sk-canary-123"), "openai")

    assert "canary" not in caller.owner
    assert "canary" not in caller.credential.id
    assert "canary" not in repr(caller)


def test_who_pays_makes_another_credential_of_the_same_owner():
    owners = make_owners()

    one = owners.identify(presented("sk-1", OpenAI_Project="a"), "openai")
    other = owners.identify(presented("sk-1", OpenAI_Project="b"), "openai")

    assert one.owner == other.owner
    assert one.credential.id != other.credential.id
    assert dict(one.credential.headers) == {"authorization": "Bearer sk-1", "openai-project": "a"}


def test_configured_hashes_join_tokens_under_one_name():
    owners = Owners(
        keyed_hash=FakeHash(),
        names={credential_hash("sk-old"): "etl", credential_hash("sk-new"): "etl"},
    )

    old, new = (owners.identify(presented(token), "openai") for token in ("sk-old", "sk-new"))

    assert old.owner == new.owner == "etl"
    assert old.credential.id != new.credential.id
    assert {"etl", credential_hash("sk-old")} <= old.names
    assert owners.identify(presented("sk-other"), "openai").owner != "etl"


def test_a_token_that_was_given_a_name_still_proves_whose_it_was_before():
    before = make_owners().identify(presented("sk-1"), "openai").owner
    owners = Owners(keyed_hash=FakeHash(), names={credential_hash("sk-1"): "etl"})

    proved = owners.of_request(((b"authorization", b"Bearer sk-1"),), "/v1/jobs")

    assert proved == ("etl", before)


def test_without_a_credential_everybody_is_the_same_owner_but_not_everywhere_the_same_credential():
    owners = make_owners()

    here, there = owners.identify(None, "vllm"), owners.identify(None, "ollama")

    assert here.anonymous
    assert here.owner == there.owner == ANONYMOUS
    assert here.credential.id != there.credential.id
    assert here.credential.headers == ()


def test_a_request_proves_every_token_that_it_carries():
    owners = make_owners()
    by_token = {token: owners.identify(presented(token), "openai").owner for token in "abc"}

    def proved(*headers, target="/v1/jobs"):
        return set(owners.of_request(headers, target))

    assert proved((b"authorization", b"Bearer a")) == {by_token["a"]}
    assert proved((b"x-api-key", b"a"), (b"authorization", b"Bearer b")) == {
        by_token["a"],
        by_token["b"],
    }
    assert proved((b"X-Goog-Api-Key", b"c")) == {by_token["c"]}
    assert proved(target="/v1/jobs/x?wait=1&key=%63") == {by_token["c"]}
    assert proved() == {ANONYMOUS}


def test_ownership_is_told_by_equality_alone():
    owner = OwnerId("ab")

    assert owns(owner, [OwnerId("x"), OwnerId("ab")])
    assert not owns(owner, [OwnerId("a"), OwnerId("abc"), OwnerId("")])
    assert not owns(owner, [])


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("/v1beta/x", None),
        ("/v1beta/x?key=AIza-1", "AIza-1"),
        ("/x?alt=sse&key=a%2Fb", "a/b"),
        ("/x?key=", None),
        ("/x?monkey=1", None),
        ("/key=1", None),
    ],
)
def test_the_query_may_carry_the_key(target, key):
    assert query_key(target) == key


def test_a_web_token_says_when_it_ends():
    assert token_expiry(jwt(exp=1_800_000_000)) == datetime.fromtimestamp(1_800_000_000, UTC)


@pytest.mark.parametrize(
    "token",
    [
        "sk-proj-abc",
        "a.b.c",
        jwt(),
        jwt(exp="soon"),
        jwt(exp=True),
        jwt(exp=1e300),
        "W10.W10.W10",
        "." * 2,
    ],
)
def test_any_other_token_never_ends(token):
    assert token_expiry(token) is None


def test_an_expiring_token_is_known_as_such():
    token = jwt(exp=1_800_000_000)
    headers = (("authorization", f"Bearer {token}"),)

    assert make_owners().identify(Presented(token, headers, ()), "openai").expires_at is not None

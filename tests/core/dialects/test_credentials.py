"""What a call presents, as each dialect takes it."""

import pytest

from proxy.core.dialects import (
    DIALECTS,
    Dialect,
    credential_hash,
    pick_headers,
    presented_credential,
)

OPENAI = DIALECTS["openai"]
ANTHROPIC = DIALECTS["anthropic"]
GEMINI = DIALECTS["gemini"]


@pytest.mark.parametrize(
    ("dialect", "headers", "token", "sent"),
    [
        (
            OPENAI,
            ((b"Authorization", b"Bearer sk-1"),),
            "sk-1",
            (("authorization", "Bearer sk-1"),),
        ),
        (
            OPENAI,
            ((b"AUTHORIZATION", b"  Bearer   sk-1 "), (b"OpenAI-Project", b"p")),
            "sk-1",
            (("authorization", "Bearer   sk-1"), ("openai-project", "p")),
        ),
        (
            OPENAI,
            ((b"authorization", b"Bearer sk-1"), (b"authorization", b"Bearer sk-2")),
            "sk-1",
            (("authorization", "Bearer sk-1"),),
        ),
        (
            ANTHROPIC,
            ((b"authorization", b"Bearer t"), (b"x-api-key", b"k")),
            "k",
            (("x-api-key", "k"),),
        ),
        (
            ANTHROPIC,
            ((b"x-api-key", b""), (b"authorization", b"Bearer t")),
            "t",
            (("authorization", "Bearer t"),),
        ),
        (GEMINI, ((b"X-Goog-Api-Key", b"AIza1"),), "AIza1", (("x-goog-api-key", "AIza1"),)),
    ],
)
def test_a_credential_is_its_tokens_value_and_the_headers_to_repeat(
    dialect, headers, token, sent
) -> None:
    found = presented_credential(dialect, headers)

    assert found is not None
    assert (found.token, found.headers) == (token, sent)


@pytest.mark.parametrize(
    ("dialect", "headers", "twofold"),
    [
        (OPENAI, ((b"Authorization", b"Bearer 1"), (b"authorization", b"Bearer 2")), True),
        (OPENAI, ((b"Authorization", b"Bearer 1"), (b"authorization", b" Bearer 1 ")), False),
        (ANTHROPIC, ((b"X-API-Key", b"1"), (b"X-API-Key", b"2")), True),
        (ANTHROPIC, ((b"X-API-Key", b"1"), (b"Authorization", b"Bearer 2")), False),
    ],
)
def test_a_credential_with_two_values_says_so(dialect, headers, twofold) -> None:
    found = presented_credential(dialect, headers)

    assert found is not None
    assert found.twofold == (headers[0][0].decode().lower() if twofold else None)


def test_two_values_of_what_is_billed_are_told_too_but_not_those_of_another_header() -> None:
    headers = ((b"x-api-key", b"k"), (b"authorization", b"a"), (b"authorization", b"b"))
    projects = ((b"Authorization", b"Bearer 1"), (b"OpenAI-Project", b"p"))

    unused = presented_credential(ANTHROPIC, headers)
    billed = presented_credential(OPENAI, (*projects, (b"OpenAI-Project", b"q")))

    assert unused is not None
    assert unused.twofold is None
    assert billed is not None
    assert billed.twofold == "openai-project"


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"authorization", b""),),
        ((b"authorization", b"Bearer"),),
        ((b"authorization", b"Bearer  "),),
        ((b"x-api-key", b"k"),),
        ((b"openai-organization", b"org"),),
    ],
)
def test_a_call_without_a_token_presents_nothing(headers) -> None:
    assert presented_credential(OPENAI, headers) is None


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_a_key_is_presented_where_it_is_looked_for(dialect: Dialect) -> None:
    name, value = dialect.key_header("sk-1")

    presented = presented_credential(dialect, ((name.encode(), value.encode()),))

    assert presented is not None
    assert presented.token == "sk-1"


def test_who_pays_is_part_of_the_credential_in_a_fixed_order() -> None:
    headers = (
        (b"openai-project", b"p"),
        (b"authorization", b"Bearer t"),
        (b"OpenAI-Organization", b"o"),
    )

    found = presented_credential(OPENAI, headers)

    assert found is not None
    assert found.billing == (("openai-organization", "o"), ("openai-project", "p"))


def test_a_presented_credential_does_not_show_itself() -> None:
    found = presented_credential(OPENAI, ((b"authorization", b"Bearer sk-canary"),))

    assert "canary" not in f"{found!r} {found}"


def test_headers_are_picked_in_lower_case_sorted_and_once_each() -> None:
    headers = (
        (b"Anthropic-Version", b" 2023-06-01 "),
        (b"x-other", b"1"),
        (b"anthropic-beta", b"b"),
        (b"Anthropic-Beta", b"a"),
        (b"anthropic-version", b"2023-06-01"),
    )

    assert pick_headers(ANTHROPIC.batch_headers, headers) == (
        ("anthropic-beta", "a, b"),
        ("anthropic-version", "2023-06-01"),
    )
    assert pick_headers((), headers) == ()


def test_a_configured_hash_is_plain_sha_256():
    # `printf sk-1 | sha256sum`
    expected = "0f2c10bf3d128c719c6bfa4ecbae94b7fceebaea6e4438fef38a90e5acc326f3"
    assert credential_hash("sk-1") == f"sha256:{expected}"

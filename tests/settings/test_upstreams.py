"""Which upstreams there are, and how they are called."""

import pytest


@pytest.mark.parametrize(("together", "to_one"), [(1, 1), (4, 3), (4096, 3072), (20_000, 15_000)])
def test_one_upstream_leaves_a_quarter_of_all_connections_to_others(configure, together, to_one):
    text = f"forwarding: {{max_connections: {together}}}\n"

    assert configure(text).settings.forwarding.max_per_upstream == to_one


def test_whoever_lists_upstreams_means_these_alone(configure):
    settings = configure("upstreams: {openai: {}}").settings

    assert list(settings.upstreams) == ["openai"]
    assert settings.upstreams["openai"].base_url == "https://api.openai.com"


def test_a_variable_changes_one_of_the_usual_upstreams_and_keeps_the_others(configure):
    environ = {"OFFRAMP_UPSTREAMS__OPENAI__BASE_URL": "http://127.0.0.1:9"}

    settings = configure("", environ=environ).settings

    assert list(settings.upstreams) == ["openai", "anthropic", "gemini", "gemini-openai"]
    assert settings.upstreams["openai"].base_url == "http://127.0.0.1:9"
    assert settings.upstreams["openai"].dialect == "openai"


@pytest.mark.parametrize("key", ["KEY", "KEY_FILE"])
def test_where_gemini_has_a_key_its_openai_api_is_no_upstream_without_one(configure, tmp_path, key):
    (tmp_path / "key").write_text("AIza-canary")
    environ = {
        f"OFFRAMP_UPSTREAMS__GEMINI__{key}": str(tmp_path / "key"),
        "OFFRAMP_UPSTREAMS__GEMINI__CLIENTS": f'{{etl: ["sha256:{"0" * 64}"]}}',
    }

    settings = configure("", environ=environ).settings

    assert list(settings.upstreams) == ["openai", "anthropic", "gemini"]


@pytest.mark.parametrize(
    ("place", "other", "is_beside"),
    [
        ("", "", True),
        ("", "base_url: 'http://h/v1beta/openai'", False),
        ("", "key: AIza-canary, clients: {etl: [HASH]}", False),
        # As routing has it: only these paths of the one can lead to the other.
        ("base_url: 'https://h:443', ", "base_url: 'https://h/v1beta/openai'", True),
        ("base_url: 'https://h/a', ", "base_url: 'https://h/a/v1beta/openai'", True),
        ("base_url: 'https://h/a', ", "base_url: 'https://h/b/v1beta/openai'", False),
        ("base_url: 'http://h', ", "base_url: 'https://h/v1beta/openai'", False),
    ],
)
def test_an_openai_api_beside_a_keyed_gemini_needs_a_key_too(complaints, place, other, is_beside):
    text = (
        "listen: nowhere\n"
        "upstreams:\n"
        f"  gemini: {{{place}key: AIza-canary, clients: {{etl: [HASH]}}}}\n"
        f"  gemini-openai: {{{other}}}\n"
    ).replace("HASH", f'"sha256:{"0" * 64}"')

    found = ["upstreams.gemini-openai.key"] if is_beside else []
    assert [line.split(": ")[1] for line in complaints(text)] == ["listen", *found]


@pytest.mark.parametrize(
    ("upstream", "complaint"),
    [
        ("v1: {dialect: openai, base_url: https://x.example}", "upstreams.v1: "),
        ("jobs: {dialect: openai, base_url: https://x.example}", "reserved"),
        ("upload: {dialect: openai, base_url: https://x.example}", "reserved"),
        ("v1beta: {dialect: openai, base_url: https://x.example}", "reserved"),
        ("UP: {dialect: openai, base_url: https://x.example}", "characters of a-z"),
        ("x: {dialect: openai, base_url: ftp://x.example}", "must be http(s)://host"),
        ("x: {dialect: openai, base_url: 'https:///v1'}", "must be http(s)://host"),
        ("x: {dialect: openai, base_url: 'https://x.example?a=1'}", "query"),
        ("x: {dialect: openai, base_url: 'https://x.example#a'}", "fragment"),
        ("x: {dialect: openai, base_url: 'https://x.example:port'}", "cannot be read"),
        ("x: {dialect: opnai, base_url: https://x.example}", "upstreams.x.dialect: 'opnai'"),
        ("x: {dialect: azure}", "upstreams.x.base_url: is required"),
        ("opneai: {base_url: http://h}", "required, since the name is none of anthropic, deep"),
        ("groq: {batch_models: {a: b}}", "upstreams.groq.batch_models: means nothing"),
        ("x: {dialect: openai-compatible, base_url: 'http://h', batch_models: {a: b}}", "means"),
        ("x: https://x.example", "upstreams.x: 'https://x.example': must be a mapping"),
    ],
)
def test_an_upstream_that_cannot_be_called_is_refused(complaints, upstream, complaint):
    found = complaints(f"upstreams: {{{upstream}}}")

    assert len(found) == 1
    assert complaint in found[0]


def test_a_credential_in_a_base_url_is_refused_and_not_repeated(complaints):
    (found,) = complaints(
        "upstreams: {x: {dialect: openai, base_url: 'https://me:canary@x.example'}}"
    )

    assert "credentials" in found
    assert "canary" not in found


def test_no_upstream_at_all_is_refused(complaints):
    (found,) = complaints("upstreams: {}")

    assert "upstreams: must not be empty" in found

"""What no single value can tell: agreement between values, and files that are there."""

import base64
import os
import stat

import pytest

from tests.settings.samples import HASH, SECRET


def test_a_token_where_its_hash_belongs_is_refused_and_not_repeated(complaints):
    (found,) = complaints("owners: {etl: [sk-canary-0123456789]}")

    assert "offramp.yaml:1:16: owners.etl[0]: ***: must be the hash of a token" in found
    assert "canary" not in found


def test_the_value_of_an_unknown_key_is_not_repeated(complaints):
    (found,) = complaints("webhooks: {a: {url: 'https://x.example', secrt: canary}}")[:1]

    assert "canary" not in found


def test_a_token_belongs_to_one_owner(complaints):
    (found,) = complaints(f"owners: {{a: [{HASH}], b: [{HASH}]}}")

    assert "owners.b[0]" in found
    assert "under 'a'" in found


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("owners: {anonymous: [HASH]}", "offramp.yaml:1:10: owners.anonymous"),
        (
            "upstreams: {openai: {key: k, clients: {anonymous: [HASH]}}}",
            "offramp.yaml:1:40: upstreams.openai.clients.anonymous",
        ),
    ],
)
def test_no_owner_has_the_name_of_those_without_a_token(complaints, text, key):
    (found,) = complaints(text.replace("HASH", HASH))

    assert key in found
    assert "is the name of those who show no token" in found


@pytest.mark.parametrize(
    ("upstream", "key", "problem"),
    [
        ("{key: sk-canary}", "clients", "must name who may use the key"),
        ("{clients: {etl: [HASH]}}", "clients", "needs key or key_file"),
        ("{key: sk-canary, key_file: /k, clients: {etl: [HASH]}}", "", "either key or key_file"),
        ('{key: "sk canary", clients: {etl: [HASH]}}', "key", "must be one key"),
        ("{key_file: /nowhere, clients: {etl: [HASH]}}", "key_file", "cannot be read"),
        ("{key: sk-canary, clients: {etl: [of-canary]}}", "clients.etl[0]", "must be the hash"),
        ("{key: sk-canary, clients: {etl: [HASH, HASH]}}", "clients.etl[1]", "is listed already"),
        ("{key: sk-canary, clients: {a b: [HASH]}}", "clients", "a name is made of letters"),
        ("{key: k, clients: {etl: [HASH]}, client_paths: [v1]}", "client_paths[0]", "begin with /"),
    ],
)
def test_a_key_is_held_for_named_clients_and_never_repeated(complaints, upstream, key, problem):
    told = str(complaints(f"upstreams: {{openai: {upstream.replace('HASH', HASH)}}}"))

    assert f"upstreams.openai{'.' if key else ''}{key}" in told
    assert problem in told
    assert "canary" not in told


def test_a_client_may_have_one_token_for_several_upstreams(configure):
    held = "{key: sk-canary, clients: {etl: [HASH]}}".replace("HASH", HASH)
    loaded = configure(f"upstreams: {{openai: {held}, anthropic: {held}}}")

    shown = {one.key: one.value for one in loaded.effective()}
    assert shown["upstreams.openai.key"] == "***"
    assert HASH not in str(shown)
    assert "canary" not in str(loaded.effective())


@pytest.mark.parametrize("listener", ["tls", "admin.tls"])
def test_a_certificate_that_cannot_be_read_is_named(complaints, listener):
    section = "{cert_file: /nowhere, key_file: /nowhere}"
    text = f"tls: {section}" if listener == "tls" else f"admin: {{tls: {section}}}"

    assert f"{listener}.cert_file: '/nowhere': cannot be read" in str(complaints(text))


@pytest.mark.parametrize("secret", ['""', '"whsec_"', '"  "'])
def test_a_webhook_with_an_empty_secret_is_refused(complaints, secret):
    (found,) = complaints(f"webhooks: {{a: {{url: 'https://x.example', secret: {secret}}}}}")

    assert "webhooks.a.secret: ***: must not be empty" in found


@pytest.mark.parametrize("secret", ["short", "bm90IGxvbmcgZW5vdWdo", "not base64 not base64 not"])
def test_a_webhook_with_a_weak_secret_is_refused_and_it_is_not_repeated(complaints, secret):
    (found,) = complaints(f"webhooks: {{a: {{url: 'https://x.example', secret: '{secret}'}}}}")

    assert "24 to 64 bytes" in found
    assert secret not in found


def test_a_webhook_whose_query_no_server_could_read_is_refused(complaints):
    (found,) = complaints(f"webhooks: {{a: {{url: 'https://x.example/?a=b c', secret: {SECRET}}}}}")
    assert "webhooks.a.url: " in found
    assert "spaces" in found


def test_a_webhook_needs_exactly_one_secret(complaints, tmp_path):
    (neither,) = complaints("webhooks: {a: {url: 'https://x.example'}}")
    (both,) = complaints(
        f"webhooks: {{a: {{url: 'https://x.example', secret: {SECRET}, secret_file: x}}}}"
    )

    assert "either secret or secret_file" in neither
    assert "either secret or secret_file" in both


def test_a_webhook_reads_its_secret_from_a_file_beside_the_configuration(configure, tmp_path):
    (tmp_path / "hook").write_text(f"{SECRET}\n")

    settings = configure("webhooks: {a: {url: 'https://x.example', secret_file: hook}}").settings

    assert settings.webhooks["a"].keys() == (b"k" * 32,)


def test_a_webhook_signs_with_both_secrets_while_they_are_exchanged(configure, tmp_path):
    newer = base64.b64encode(b"n" * 32).decode()
    (tmp_path / "hook").write_text(f"whsec_{newer}\n{SECRET}\n")

    settings = configure("webhooks: {a: {url: 'https://x.example', secret_file: hook}}").settings

    assert settings.webhooks["a"].keys() == (b"n" * 32, b"k" * 32)


@pytest.mark.parametrize(
    ("content", "problem"), [("", "must not be empty"), (None, "No such file")]
)
def test_a_webhook_file_without_a_secret_is_refused(complaints, tmp_path, content, problem):
    if content is not None:
        (tmp_path / "hook").write_text(content)

    (found,) = complaints("webhooks: {a: {url: 'https://x.example', secret_file: hook}}")

    assert "webhooks.a.secret_file" in found
    assert problem in found


@pytest.mark.parametrize("url", ["ftp://x.example", "https://u:canary@x.example", "x.example"])
def test_a_webhook_goes_to_http_without_credentials(complaints, url):
    (found,) = complaints(f"webhooks: {{a: {{url: '{url}', secret: {SECRET}}}}}")

    assert "webhooks.a.url" in found
    assert "canary" not in found


def test_paths_in_a_file_are_relative_to_the_file(configure, tmp_path, monkeypatch):
    (tmp_path / "rules.yaml").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    settings = configure("policies: rules.yaml\nstore: sqlite:state/jobs.db\n").settings

    assert settings.policies == tmp_path / "rules.yaml"
    assert settings.store.path == tmp_path / "state/jobs.db"


def test_a_store_that_cannot_be_made_is_refused_before_anything_starts(complaints, tmp_path):
    (tmp_path / "file").touch()

    (found,) = complaints(f"store: sqlite://{tmp_path}/file/jobs.db")

    assert found.startswith("offramp.yaml:1:8: store: 'sqlite://")
    assert "cannot be made" in found


def test_a_path_that_cannot_even_be_looked_at_is_refused_by_its_key(complaints):
    # As in a folder of another user, but so for root as well.
    folder = "x" * 300

    found = complaints(f"store: sqlite:{folder}/jobs.db\nsecret_key_file: {folder}/offramp.key\n")

    assert [line.split(": ")[1] for line in found] == ["store", "secret_key_file"]
    assert "cannot be reached: File name too long" in found[0]
    assert "cannot be read: File name too long" in found[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_the_right_to_write_is_refused(complaints, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)

    (found,) = complaints(f"store: sqlite://{locked}/jobs.db")

    assert "no right to write" in found


def test_redis_needs_a_key_that_every_instance_has(complaints, configure, tmp_path):
    (missing,) = complaints("store: redis://localhost/0")
    (absent,) = complaints("store: redis://localhost/0\nsecret_key_file: absent")
    (tmp_path / "key").touch()

    assert "secret_key_file: is required with Redis" in missing
    assert "cannot be read: No such file" in absent
    assert configure("store: redis://localhost/0\nsecret_key_file: key").settings.store.is_redis


def test_with_sqlite_the_key_file_may_still_have_to_be_made(configure, tmp_path):
    assert configure("secret_key_file: later").settings.secret_key_file == tmp_path / "later"


def test_an_admin_token_file_must_hold_a_token(complaints, configure, tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "token").write_text("s3cret\n")

    (empty,) = complaints("admin: {token_file: empty}")
    (absent,) = complaints("admin: {token_file: absent}")

    assert "admin.token_file" in empty
    assert "must not be empty" in empty
    assert "cannot be read" in absent
    assert configure("admin: {token_file: token}").settings.admin.read_token() == "s3cret"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xffcanary", "its content must be text"),
        (b"can\nary", "must be one token"),
        ("canäry".encode(), "must be one token"),
    ],
)
def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(
    complaints, tmp_path, content, problem
):
    (tmp_path / "token").write_bytes(content)

    (found,) = complaints("admin: {token_file: token}")

    _, _, said = found.partition("token_file: ")
    assert problem in said
    assert "can" not in said.replace(str(tmp_path), "")


def test_a_held_key_that_is_no_text_is_refused_in_words(complaints, tmp_path):
    (tmp_path / "key").write_bytes(b"\xff\xfe")

    (found,) = complaints(f"upstreams: {{openai: {{key_file: key, clients: {{a: ['{HASH}']}}}}}}")

    assert found.endswith("its content must be text, and is not UTF-8")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("admin: {listen: 127.0.0.1:8080}", "admin.listen: '127.0.0.1:8080': must differ"),
        ("batching: {linger: 20m}", "must be at most batching.linger_max, which is 15m"),
        ("durability: ephemeral", "deferral.default_answer: must be wait"),
        ("instance: {lease: 1s}", "must be at least 3s"),
        ("instance: {lease: 61m}", "must be at most 1h"),
        ("batching: {linger: 0s}", "must be more than 0s"),
        ("deferral: {default_answer: background}", "must be one of 'job', 'wait', 'raise'"),
        ("deferral: {default_deadline: 60d}", "at most 30d"),
        ("store: postgres://x", "must be a URL that begins with one of sqlite, redis"),
        ("store: 5", "must be a URL"),
        ("store: 'sqlite::memory:'", "must name a file"),
        ("store: 'sqlite://host/x.db'", "with three slashes"),
        ("store: 'redis://'", "must name a host"),
        ("batching: 5", "batching: 5: must be a mapping"),
        ("admin: {allowed_hosts: localhost}", "must be a list, such as [a, b]"),
        ("lanes: {trickle: {hours: 20-6}}", "'20-6': must be two different times of day"),
        ("lanes: {trickle: {zone: Europe}}", "'Europe': must be a time zone"),
    ],
)
def test_values_that_cannot_stand_are_refused(complaints, text, complaint):
    assert any(complaint in line for line in complaints(text)), complaints(text)

"""The configuration: its sources, their order, and complaints that help."""

import base64
import os
import stat
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.app import serving
from proxy.core.errors import ConfigError
from proxy.core.lanes import LaneTimes
from proxy.core.price_list import parse_price
from proxy.core.upstream import Upstream
from proxy.core.web_proxy import WebProxy
from proxy.settings import (
    Address,
    BadConfigurationError,
    Settings,
    duration_text,
    load,
    parse_address,
    parse_duration,
)
from proxy.settings.tree import default_store
from proxy.settings.values import hide_secrets, parse_size, parse_store
from tests.helpers.pipes import named_pipe

HASH = "sha256:" + "0a" * 32
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def configure(tmp_path):
    """Write a configuration file and load it."""

    def configured(text, *, environ=None, flags=None, name="offramp.yaml"):
        file = tmp_path / name
        file.write_text(text)
        return load(file, environ={"HOME": str(tmp_path)} | (environ or {}), flags=flags)

    return configured


@pytest.fixture
def complaints(configure, tmp_path):
    """Load a bad configuration and return what is said, with the file's name shortened."""

    def complained(text, **sources):
        with pytest.raises(BadConfigurationError) as raised:
            configure(text, **sources)
        return [str(one).replace(f"{tmp_path}/", "") for one in raised.value.complaints]

    return complained


@pytest.mark.parametrize(("together", "to_one"), [(1, 1), (4, 3), (4096, 3072), (20_000, 15_000)])
def test_one_upstream_leaves_a_quarter_of_all_connections_to_others(configure, together, to_one):
    text = f"forwarding: {{max_connections: {together}}}\n"

    assert configure(text).settings.forwarding.max_per_upstream == to_one


def test_without_any_configuration_everything_has_a_value(tmp_path):
    settings = load(environ={"HOME": str(tmp_path)}).settings

    assert str(settings.listen) == "127.0.0.1:8080"
    assert str(settings.admin.listen) == "127.0.0.1:8081"
    assert settings.store.path == tmp_path / ".local/state/offramp/offramp.db"
    assert list(settings.parsed_upstreams()) == ["openai", "anthropic", "gemini", "gemini-openai"]
    assert settings.batching.linger == timedelta(seconds=60)
    assert settings.deferral.default_deadline == timedelta(hours=26)


def test_the_state_directory_follows_the_specification(tmp_path):
    home = str(tmp_path)
    chosen = load(environ={"HOME": home, "XDG_STATE_HOME": f"{home}/elsewhere"}).settings
    relative = load(environ={"HOME": home, "XDG_STATE_HOME": "relative"}).settings

    assert chosen.store.path == tmp_path / "elsewhere/offramp/offramp.db"
    assert relative.store.path == tmp_path / ".local/state/offramp/offramp.db"


@pytest.mark.parametrize("home", [{"HOME": "relative"}, {"HOME": "~nobody-of-this-name"}])
def test_without_a_home_it_is_that_of_the_root(home):
    store = default_store(home)

    assert store.path == Path("/.local/state/offramp/offramp.db")
    assert parse_store(store.url) == store


def test_a_user_without_a_name_or_a_home_can_use_a_store_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    monkeypatch.delenv("HOME")

    settings = load(environ={"OFFRAMP_STORE": f"sqlite:{tmp_path}/x.db"}).settings

    assert settings.store.path == tmp_path / "x.db"


def test_loading_makes_and_changes_nothing(tmp_path):
    load(environ={"HOME": str(tmp_path)})

    assert list(tmp_path.iterdir()) == []


def test_each_source_beats_the_ones_before_it(configure):
    text = "batching: {linger: 1s, idle: 1s, poll_interval: 1s}\n"
    environ = {"OFFRAMP_BATCHING__IDLE": "2s", "OFFRAMP_BATCHING__POLL_INTERVAL": "2s"}

    loaded = configure(text, environ=environ, flags={"batching.poll_interval": "3s"})

    batching = loaded.settings.batching
    assert [batching.worth, batching.linger, batching.idle, batching.poll_interval] == [
        10,
        timedelta(seconds=1),
        timedelta(seconds=2),
        timedelta(seconds=3),
    ]


def test_every_value_knows_where_it_came_from(configure, tmp_path):
    loaded = configure(
        "batching:\n  linger: 1s\nowners:\n  etl: [" + HASH + "]\n",
        environ={"OFFRAMP_LOG__LEVEL": "debug"},
        flags={"listen": "127.0.0.1:0"},
    )

    assert loaded.origin("batching", "linger") == f"{tmp_path}/offramp.yaml:2:11"
    assert loaded.origin("owners", "etl") == f"{tmp_path}/offramp.yaml:4:8"
    assert loaded.origin("log", "level") == "OFFRAMP_LOG__LEVEL"
    assert loaded.origin("listen") == "--listen"
    assert loaded.origin("batching", "worth") == "default"
    assert loaded.origin("store") == "default"


def test_the_effective_configuration_lists_every_key_once(configure):
    effective = configure("admin: {listen: 127.0.0.1:1}\n").effective()

    keys = [one.key for one in effective]
    assert len(set(keys)) == len(keys)
    assert {"listen", "admin.listen", "upstreams.openai.base_url", "log.level"} <= set(keys)
    shown = {one.key: one.value for one in effective}
    assert shown["admin.listen"] == "127.0.0.1:1"
    assert shown["deferral.default_deadline"] == "1d2h"
    assert shown["policies"] == "null"


def test_what_is_shown_can_be_read_again(configure):
    for one in configure("").effective():
        if one.key not in {"owners", "webhooks", "prices.models"} and not one.key.startswith(
            "upstreams."
        ):
            variable = "OFFRAMP_" + one.key.upper().replace(".", "__")
            again = configure("", environ={variable: one.value}).effective()
            assert one.value in [other.value for other in again if other.key == one.key]


def test_no_secret_is_shown(configure, tmp_path):
    key_file = tmp_path / "key"
    key_file.touch()
    text = f"""
store: redis://user:canary-password@localhost/0
secret_key_file: {key_file}
webhooks: {{done: {{url: "https://hooks.example/x?canary-query", secret: {SECRET}}}}}
"""
    loaded = configure(text)

    shown = " ".join(one.value for one in loaded.effective())
    assert SECRET not in shown + repr(loaded.settings)
    assert "canary-password" not in shown + repr(loaded.settings)
    assert "canary-query" not in shown
    assert loaded.settings.store.url == "redis://user:canary-password@localhost/0"


def test_the_tree_cannot_be_changed():
    settings = Settings()

    with pytest.raises(ValidationError, match="frozen"):
        settings.batching.worth = 3


def test_every_complaint_comes_at_once_with_place_key_value_and_what_is_allowed(complaints):
    found = complaints(
        """\
listen: nowhere
batching:
  linger: soon
  worth: 0
log: {level: loud}
retention: {results: 7}
deferral: {max_held: many}
annotate: perhaps
lanes: {calls_per_s: .inf}
"""
    )

    durations = "must be a duration: a number and ms, s, m, h or d, e.g. 10s, 5m, 1h30m"
    addresses = "must be host:port with a port of 0 to 65535, e.g. 127.0.0.1:8080 or [::]:8080"
    assert found == [
        f"offramp.yaml:1:9: listen: 'nowhere': {addresses}",
        f"offramp.yaml:3:11: batching.linger: 'soon': {durations}",
        "offramp.yaml:4:10: batching.worth: 0: must be at least 1",
        "offramp.yaml:5:14: log.level: 'loud': must be one of 'debug', 'info', 'warning', 'error'",
        f"offramp.yaml:6:22: retention.results: 7: {durations}",
        "offramp.yaml:7:22: deferral.max_held: 'many': must be a whole number",
        "offramp.yaml:8:11: annotate: 'perhaps': must be true or false",
        "offramp.yaml:9:22: lanes.calls_per_s: '.inf': must be a number",
    ]


def test_what_only_the_whole_tells_is_complained_about_beside_a_bad_value(complaints):
    found = complaints(
        f"""\
batching: {{linger: soon}}
owners: {{etl: [{HASH}, not-a-hash]}}
webhooks: {{done: {{url: "https://x.example", secret: {SECRET}, owners: [etl, other]}}}}
policies: absent.yaml
"""
    )

    assert [line.partition(": ")[2].split(":")[0] for line in found] == [
        "batching.linger",
        "owners.etl[1]",
        "webhooks.done.owners[1]",
        "policies",
    ]


def test_an_upstream_without_a_usable_dialect_hides_nothing_and_is_missed_nowhere(complaints):
    found = complaints(
        f"""\
upstreams:
  own: {{dialect: klingon, base_url: "https://x.example", key: k, clients: {{etl: [{HASH}]}}}}
  other: {{dialect: openai, base_url: "ftp://x.example"}}
prices: {{models: {{own/m: {{input: 1, output: 1}}}}}}
webhooks: {{done: {{url: "https://x.example", secret: {SECRET}, owners: [etl]}}}}
deferral: {{default_deadline: 90d}}
"""
    )

    assert [line.partition(": ")[2].split(":")[0] for line in found] == [
        "upstreams.own.dialect",
        "upstreams.other.base_url",
        "deferral.default_deadline",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batching: {lingr: 5s}", "1:12: batching.lingr: unknown key; did you mean 'linger'?"),
        ("batching: {max-bytes: 5}", "1:12: batching.max-bytes: unknown key; did you mean "),
        ("lisen: 127.0.0.1:1", "1:1: lisen: unknown key; did you mean 'listen'?"),
        ("retention: {zzz: 1}", "1:13: retention.zzz: unknown key; known are results"),
        (
            "upstreams: {openai: {url: x}}",
            "1:22: upstreams.openai.url: unknown key; known are dialect",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_meant(complaints, text, complaint):
    (found,) = complaints(text)

    assert found.startswith(f"offramp.yaml:{complaint}")


def test_every_key_that_stands_twice_is_named_with_its_first_place(complaints):
    found = complaints("log: {level: info, level: debug}\nannotate: true\nannotate: false\n")

    assert found == [
        "offramp.yaml:1:20: log.level: stands twice; the first is at offramp.yaml:1:7",
        "offramp.yaml:3:1: annotate: stands twice; the first is at offramp.yaml:2:1",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("upstreams: [openai]", "1:12: upstreams: must be a mapping"),
        ("batching:\n  - linger: 5s", "2:3: batching: must be a mapping"),
        ("owners: {etl: {a: b}}", "1:15: owners.etl: must be a list"),
        ("batching: {linger: [5s]}", "1:20: batching.linger: "),
        ("upstreams: {}", "1:1: upstreams: must not be empty"),
    ],
)
def test_what_is_of_another_kind_is_named_where_it_stands(complaints, text, complaint):
    (found,) = complaints(text)

    assert found.startswith(f"offramp.yaml:{complaint}")


def test_a_section_that_holds_nothing_is_named_where_it_stands(complaints):
    found = complaints("batching:\n  # linger: 5s\n\nlog: {level: info}\n")

    assert found == ["offramp.yaml:1:1: batching: must be a mapping, such as {a: b}"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("batching: {linger: [", "1:21: cannot be read as YAML"),
        ("a: b: c", "1:5: cannot be read as YAML"),
        ("- listen", "1:1: must be a mapping of keys"),
        ("a: *nothing", "1:4: cannot be read as YAML"),
        ("log: &a {level: *a}", "nested too deeply"),
        ("a: 1\n---\nb: 2", "2:1: cannot be read as YAML"),
        pytest.param(f"a: {'[' * 3000}", "offramp.yaml:1:24: is nested too deeply", id="deep"),
        ("log:\n  level: de\0bug", "offramp.yaml:2:12: cannot be read as YAML: a character that"),
        ("annotate: yes\0", "offramp.yaml:1:14: cannot be read as YAML: a character that"),
        ('policies: "\\UFFFFFFFF"', "an escape of no character"),
        ('policies: "a\\0b"', "1:11: policies: holds an escape of no character"),
        ('policies: "\\ud800"', "1:11: policies: holds an escape of no character"),
        ("policies: !ENV rules", "1:11: policies: the tag '!ENV' is not supported"),
        ("policies: !!binary aGk=", "the tag 'binary' is not supported"),
        ("log: {<<: {level: debug}}", "1:7: log.<<: merging is not supported"),
    ],
)
def test_what_is_no_yaml_of_ours_is_refused_with_its_place(complaints, text, complaint):
    assert any(complaint in line for line in complaints(text))


def test_a_file_that_expands_without_end_is_refused(complaints):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]

    found = complaints("\n".join(lines))

    assert sum("too large by aliases" in line for line in found) == 1


def test_a_file_of_too_many_values_is_told_that_alone(complaints):
    (found,) = complaints("unknown: 1\nitself: &itself [*itself]\n")

    assert "is nested too deeply, or made too large" in found


def test_a_file_that_is_far_too_long_is_not_even_parsed(complaints):
    (found,) = complaints("\0" * ((1 << 20) + 1))

    assert found == "offramp.yaml: has more than 1048576 characters: this is no configuration"


def test_an_empty_file_is_no_configuration(configure):
    assert configure("# nothing yet\n").settings.batching == Settings().batching


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path, complaints):
    with named_pipe(tmp_path / "offramp.pipe") as pipe:
        with pytest.raises(
            BadConfigurationError, match=r"offramp\.pipe: cannot be read: it is a pipe"
        ):
            load(pipe, environ={})

        (found,) = complaints(f"admin: {{token_file: {pipe}}}")

    assert "admin.token_file" in found
    assert "cannot be read: it is a pipe" in found


def test_a_pipe_that_is_open_already_is_read():
    read, write = os.pipe()
    with os.fdopen(write, "w") as writer:
        writer.write("log: {level: debug}")

    try:
        loaded = load(Path(f"/dev/fd/{read}"), environ={})
    finally:
        os.close(read)

    assert loaded.settings.log.level == "debug"


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadConfigurationError, match=r"absent\.yaml: cannot be read: No such file"):
        load(tmp_path / "absent.yaml", environ={"HOME": str(tmp_path)})

    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfigurationError, match="not UTF-8"):
        load(tmp_path / "binary.yaml", environ={"HOME": str(tmp_path)})


# Environment.


def test_lists_and_mappings_in_a_variable_are_json_or_yaml(configure):
    environ = {
        "OFFRAMP_ADMIN__ALLOWED_HOSTS": '["ops.example", localhost]',
        "OFFRAMP_OWNERS": f"{{etl: [{HASH}]}}",
        "OFFRAMP_UPSTREAMS": '{"local": {"dialect": "openai", "base_url": "http://localhost:1"}}',
    }

    settings = configure("", environ=environ).settings

    assert settings.admin.allowed_hosts == ("ops.example", "localhost")
    assert settings.owners == {"etl": (HASH,)}
    assert list(settings.upstreams) == ["local"]


def test_a_variable_may_empty_what_a_file_set(configure):
    environ = {"OFFRAMP_BATCHING__MAX_REQUESTS": "null"}

    settings = configure("batching: {max_requests: 5}", environ=environ).settings

    assert settings.batching.max_requests is None


def test_a_bad_variable_is_named_instead_of_a_place(complaints):
    environ = {
        "OFFRAMP_BATCHING__LINGR": "5s",
        "OFFRAMP_BATCHING__IDLE": "soon",
        "OFFRAMP_OWNERS": "{etl: [",
    }

    found = complaints("", environ=environ)

    assert [line.split(": ")[:2] for line in found] == [
        ["OFFRAMP_BATCHING__LINGR", "batching.lingr"],
        ["OFFRAMP_OWNERS", "owners"],
        ["OFFRAMP_BATCHING__IDLE", "batching.idle"],
    ]


def test_a_variable_that_replaces_a_value_of_the_file_is_blamed_in_its_place(complaints):
    environ = {"OFFRAMP_OWNERS__ETL": "{a: b}"}

    found = complaints(f"owners: {{etl: [{HASH}]}}", environ=environ)

    assert found == ["OFFRAMP_OWNERS__ETL: owners.etl: must be a list, such as [a, b]"]


def test_the_variables_of_a_kubernetes_service_called_offramp_are_not_ours(configure):
    environ = {
        "OFFRAMP_SERVICE_HOST": "10.0.0.1",
        "OFFRAMP_SERVICE_PORT": "8080",
        "OFFRAMP_SERVICE_PORT_HTTP": "8080",
        "OFFRAMP_PORT": "tcp://10.0.0.1:8080",
        "OFFRAMP_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "OFFRAMP_PORT_8080_TCP_PROTO": "tcp",
        "OFFRAMP_PORT_8080_TCP_PORT": "8080",
        "OFFRAMP_PORT_8080_TCP_ADDR": "10.0.0.1",
        "OFFRAMP_ADMIN_SERVICE_HOST": "10.0.0.2",
        "OFFRAMP_ADMIN_PORT_8081_TCP": "tcp://10.0.0.2:8081",
    }

    assert configure("", environ=environ).settings == configure("").settings


# Upstreams.


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
    ("other", "found"),
    [
        ("{}", ["upstreams.gemini-openai.key"]),
        ("{base_url: 'http://h/v1beta/openai'}", []),
        ("{key: AIza-canary, clients: {etl: [HASH]}}", []),
    ],
)
def test_an_openai_api_beside_a_keyed_gemini_needs_a_key_too(complaints, other, found):
    text = (
        "listen: nowhere\n"
        "upstreams:\n"
        "  gemini: {key: AIza-canary, clients: {etl: [HASH]}}\n"
        f"  gemini-openai: {other}\n"
    ).replace("HASH", f'"sha256:{"0" * 64}"')

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


# Secrets, owners and webhooks.


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


# Places and files.


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


# Values.


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("5m", 300), ("6h", 21_600), ("1d", 86_400), ("500ms", 0.5), ("1h30m", 5_400)],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "5 s", "-5s", "5w", "1e3s", "5s!", 5, None, "\N{ARABIC-INDIC DIGIT FIVE}s"],
)
def test_anything_else_is_no_duration(text):
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "9" * 400 + "d"])
def test_more_than_a_century_is_no_duration(text):
    with pytest.raises(ValueError, match="at most 36500d"):
        parse_duration(text)


@given(st.integers(0, 10**12))
def test_a_duration_survives_being_written(milliseconds):
    value = timedelta(milliseconds=milliseconds)

    assert parse_duration(duration_text(value)) == value


@pytest.mark.parametrize(
    ("text", "size"), [("64MB", 64_000_000), ("1GiB", 1 << 30), ("5", 5), (7, 7), ("2 KiB", 2048)]
)
def test_a_size_is_bytes_or_a_number_and_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["-1", -1, "1.5MB", "x", True, None])
def test_anything_else_is_no_size(text):
    with pytest.raises(ValueError, match="number of bytes"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80), True),
        ("127.9.9.9:80", Address("127.9.9.9", 80), True),
        ("[::1]:0", Address("::1", 0), True),
        ("localhost:1", Address("localhost", 1), True),
        ("0.0.0.0:65535", Address("0.0.0.0", 65_535), False),
        ("[::]:1", Address("::", 1), False),
        ("host.example:1", Address("host.example", 1), False),
    ],
)
def test_an_address_knows_whether_others_can_reach_it(text, address, loopback):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address
    assert address.is_loopback is loopback


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:65536", "::1:80", "h:-1", 80])
def test_anything_else_is_no_address(text):
    with pytest.raises(ValueError, match="host:port"):
        parse_address(text)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:////var/lib/x.db", "/var/lib/x.db"),
        ("sqlite:x.db", "x.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url, path):
    assert parse_store(url).path == Path(path)


@pytest.mark.parametrize(
    "url", ["redis://h:1/0", "rediss://h", "redis+sentinel://a:1,b:2/main/0", "redis+cluster://h:1"]
)
def test_a_redis_url_is_kept_as_it_is(url):
    store = parse_store(url)

    assert (store.url, store.path, store.is_redis) == (url, None, True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@ss@h:1/0?password=x", "redis://***@h:1/0?***"),
        ("redis://:pa/ss@h:1/0", "redis://***@h:1/0"),
        ("redis://:pa?ss@h:1/0", "redis://***"),
        ("redis://:p@a?ss@h:1/0", "redis://***"),
        ("https://h/path?key=x", "https://h/path?***"),
        ("redis:/u:pass@h:1/0", "***@h:1/0"),
        ("u:pass@h:1", "***@h:1"),
        ("name@h", "name@h"),
        ("gpt-?:free", "gpt-?:free"),
    ],
)
def test_a_password_is_hidden_whole_whatever_is_in_it(url, shown):
    assert hide_secrets(url) == shown


def test_a_password_that_is_not_encoded_is_refused_without_being_shown(complaints):
    (found,) = complaints("store: redis://:secret/canary@h:1/0")

    assert "must be percent-encoded: / is %2F" in found
    assert "secret" not in found
    assert "canary" not in found


@pytest.mark.parametrize("store", ["redis//:canary@h", "rediss:/:canary@h", "u:canary@h/0"])
def test_a_password_in_a_store_without_its_colon_or_slash_is_not_repeated(complaints, store):
    assert "canary" not in "".join(complaints(f"store: '{store}'"))


def test_the_planners_get_what_is_configured(configure):
    settings = configure(
        "batching: {linger: 5s, worth: 3, max_open_batches: 2, poll_interval: 4s}\n"
        "lanes: {cancel_time: 1m, margin: 1s, calls_per_s: 2}\n"
    ).settings

    limits = settings.batching.flush_limits()
    assert (limits.linger, limits.worth, limits.max_open) == (timedelta(seconds=5), 3, 2)
    # Any provider's own limit is smaller than the one that nobody configured.
    assert limits.max_requests > 10**9
    assert settings.batching.pace().interval == timedelta(seconds=4)
    assert settings.batching.pace().first == timedelta(seconds=4)
    assert settings.lanes.times() == LaneTimes(
        cancel=timedelta(minutes=1), margin=timedelta(seconds=1), calls_per_s=2
    )


def test_recording_is_off_unless_there_is_a_file_to_record_to(configure, tmp_path):
    assert configure("").settings.recording.path is None

    recording = configure("recording: {path: facts.jsonl, max_bytes: 1MB, sample: 0.25}").settings
    assert recording.recording.path == tmp_path / "facts.jsonl"
    assert (recording.recording.max_bytes, recording.recording.sample) == (1_000_000, 0.25)


@pytest.mark.parametrize(
    ("recording", "problem"),
    [
        ("{sample: 0}", "must be more than 0"),
        ("{sample: 2}", "must be at most 1"),
        ("{max_bytes: 1KB}", "must be at least 65536"),
        ("{headers: [x-job, Authorization]}", "carries credentials: it is never recorded"),
        ("{path: offramp.yaml/facts}", "cannot be made"),
    ],
)
def test_recording_within_bounds_and_without_credentials(configure, recording, problem):
    with pytest.raises(BadConfigurationError, match=problem):
        configure(f"recording: {recording}")


TWO_UPSTREAMS = """
upstreams: {openai: {}, mine: {dialect: openai, base_url: "http://10.0.0.1:8000"}}
prices: """


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ("{providers: {yours: openai}}", "no upstream 'yours'"),
        ("{models: {gpt-5: {input: 1}}}", "is named upstream/model"),
        ("{models: {yours/gpt-5: {input: 1}}}", "is named upstream/model"),
        ("{models: {mine/llama: {input: -1}}}", "at least 0"),
        ("{models: {mine/llama: {output: 1}}}", "is required"),
        ("{models: {mine/llama: {input: 1, batch_input: 1}}}", "batch_input and batch_output"),
        ("{models: {mine/llama: {input: 1, flex_cached: 1}}}", "flex_input and flex_output"),
    ],
)
def test_prices_that_make_no_sense_are_refused(complaints, stated, complaint):
    (found,) = complaints(TWO_UPSTREAMS + stated)

    assert "offramp.yaml:3:" in found
    assert complaint in found


def test_a_price_list_that_is_not_there_is_refused_before_the_start(complaints):
    (found,) = complaints("prices: {file: /nowhere/prices.json}")

    assert "prices.file: '/nowhere/prices.json': cannot be read" in found


def test_stated_prices_are_reckoned_with_in_dollars_per_million_tokens(configure):
    stated = "{models: {mine/llama-*: {input: 2, output: 8, batch_input: 1, batch_output: 4}}}"

    settings = configure(TWO_UPSTREAMS + stated).settings

    (price,) = settings.prices.models.values()
    assert price.price() == parse_price(
        {"standard": {"input": 2, "output": 8}, "batch": {"input": 1, "output": 4}}
    )


def test_tokens_written_to_a_cache_are_as_much_dearer_in_a_batch_as_in_a_call(configure):
    stated = (
        "{models: {anthropic/claude-x: {input: 3, output: 15, cache_write: 3.75, cache_write_1h: 6,"
        " batch_input: 1.5, batch_output: 7.5, batch_cached: 0.15}}}"
    )
    (price,) = configure(f"prices: {stated}").settings.prices.models.values()

    assert (
        price.price().batch
        == parse_price(
            {
                "standard": {
                    "input": 1.5,
                    "output": 7.5,
                    "cached": 0.15,
                    "cache_write": 1.875,
                    "cache_write_1h": 3,
                }
            }
        ).standard
    )


WEB_PROXY = "http://me:secret@squid.example:3128"


@pytest.fixture
def way_to(configure):
    """Tell which web proxy an upstream is reached through."""

    def way_to(url, text=""):
        web_proxy_of = configure(text).settings.forwarding.web_proxy_of()
        return web_proxy_of(Upstream.parse("up", "openai", url))

    return way_to


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_upstreams_are_reached_through_the_web_proxy_of_the_environment(monkeypatch, way_to, name):
    monkeypatch.setenv(name, WEB_PROXY)
    monkeypatch.setenv("NO_PROXY", ".internal,10.0.0.7")

    assert way_to("https://api.openai.com") == WebProxy.parse(WEB_PROXY, said_by=name)
    for url in (
        "https://llm.internal:8443",
        "https://10.0.0.7",
        "https://127.0.0.1:8443",
        "https://localhost",
        "https://[::1]",
        "http://api.openai.com",
    ):
        assert way_to(url) is None, url


def test_without_a_word_of_the_environment_or_by_configuration_none_is_used(monkeypatch, way_to):
    monkeypatch.setenv("HTTP_PROXY", WEB_PROXY)
    assert way_to("https://api.openai.com") is None

    monkeypatch.setenv("HTTPS_PROXY", "")
    assert way_to("https://api.openai.com") is None

    monkeypatch.setenv("HTTPS_PROXY", "socks5://squid:1080")
    with pytest.raises(ConfigError, match=r"HTTPS_PROXY .* must be http://"):
        way_to("https://api.openai.com")
    assert way_to("https://api.openai.com", "forwarding: {web_proxy: none}\n") is None


async def test_a_start_tells_which_upstreams_go_through_a_web_proxy_and_no_password(
    monkeypatch, configure, tmp_path
):
    monkeypatch.setenv("HTTPS_PROXY", WEB_PROXY)
    monkeypatch.setenv("NO_PROXY", "llm.internal")
    text = (
        "listen: 127.0.0.1:0\nadmin: {listen: '127.0.0.1:0'}\n"
        f"store: sqlite://{tmp_path}/offramp.db\n"
        "upstreams:\n"
        "  openai: {base_url: 'https://api.openai.com'}\n"
        "  mine: {dialect: openai, base_url: 'https://llm.internal'}\n"
    )
    settings = configure(text).settings
    through = sorted(set(settings.upstreams) - {"mine"})

    with structlog.testing.capture_logs() as logs:
        async with serving(settings):
            pass

    (told,) = [line for line in logs if line["event"] == "web_proxy.used"]
    assert (told["web_proxy"], told["upstreams"]) == ("squid.example:3128", through)
    assert "secret" not in str(logs)

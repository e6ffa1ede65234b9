"""The sources of the configuration, their order, and complaints that help."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.settings import (
    BadConfigurationError,
    Settings,
    load,
)
from proxy.settings.tree import default_store
from proxy.settings.values import parse_store
from tests.helpers.pipes import named_pipe
from tests.settings.samples import HASH, SECRET


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

"""The command line: what it prints, its exit codes, and that it is quick."""

import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from policies.load import load_policies
from proxy.cli import COMMANDS, batches, jobs, main
from proxy.cli.namesake import refuse_namesake
from proxy.cli.output import plain
from proxy.core.errors import ConfigError, ProxyError
from proxy.stores.vault import Vault
from tests.helpers.certificates import write_certificate
from tests.helpers.factories import IDS
from tests.helpers.traffic_week import Week

JOB = IDS.job()
KEY = "sk-canary-0123456789"

HUNG_UP = 0
"""In place of a status: the connection ends without an answer."""


class Proxy(ThreadingHTTPServer):
    """A listener that gives prepared answers by path and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[tuple[int, str, bytes]]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(
        self,
        target: str,
        content: object,
        *,
        status: int = 200,
        content_type: str = "application/json",
    ) -> None:
        """Answer `target` so; several answers to one target come one after the other."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers.setdefault(target, []).append((status, content_type, body))


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        prepared = self.server.answers[self.path]
        status, content_type, body = prepared.pop(0) if len(prepared) > 1 else prepared[0]
        if status == HUNG_UP:
            return
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def proxy():
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(capfdbinary, monkeypatch):
    """Run the command line; return exit code, standard output and standard error."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def ran(*words):
        code = main([str(word) for word in words])
        output, errors = capfdbinary.readouterr()
        return code, output, errors.decode()

    return ran


@contextmanager
def a_failing_command(name, failure):
    """Let the command `name` fail so, whatever it would do."""

    @click.command(name)
    def command():
        raise failure

    # What is imported already is not imported again.
    module = ModuleType(f"proxy.cli.{name}")
    module.command = command  # type: ignore[attr-defined]
    known = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        del sys.modules[module.__name__]
        if known is not None:
            sys.modules[module.__name__] = known


# The command as a whole.


def test_the_command_line_starts_without_the_heavy_libraries():
    program = """
import sys
import proxy.cli
heavy = {"aiohttp", "pydantic", "openai", "structlog", "rich", "asyncio", "cryptography", "redis"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_help_loads_no_command():
    program = """
import sys
from proxy.cli import main
assert main(["--help"]) == 0
assert not [name for name in sys.modules if name.startswith("proxy.cli.")]
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    for name in COMMANDS:
        assert f"  {name} ".encode() in done.stdout


def test_python_dash_m_proxy_is_the_command():
    command = [sys.executable, "-m", "proxy", "--version"]
    done = subprocess.run(command, check=True, capture_output=True)

    assert done.stdout.startswith(b"offramp, version ")


@pytest.mark.parametrize("words", [["nope"], ["--nope"], ["check", "--nope"], ["jobs", "show"]])
def test_wrong_usage_ends_with_2_and_says_what_is_right(run, words):
    code, output, errors = run(*words)

    assert (code, output) == (2, b"")
    assert "Usage: offramp" in errors


def test_an_expected_failure_ends_with_1_and_a_hint(run):
    with a_failing_command("demo", ProxyError("port 80 is taken", hint="choose another")):
        code, output, errors = run("demo")

    assert (code, output) == (1, b"")
    assert errors == "offramp: port 80 is taken\nhint: choose another\n"


def test_a_bug_shows_a_traceback_to_whoever_asked_alone(run):
    with a_failing_command("demo", KeyError("canary")):
        code, _, errors = run("demo")
        debug_code, _, debug_errors = run("--debug", "demo")

    assert (code, debug_code) == (1, 1)
    assert "Traceback" not in errors
    assert "canary" not in errors
    assert "KeyError" in errors
    assert "Traceback" in debug_errors


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_ends_as_shells_expect(run, failure):
    with a_failing_command("demo", failure):
        code, _, errors = run("demo")

    assert (code, errors) == (130, "interrupted\n")


@pytest.mark.parametrize(
    "words", [["check"], ["check", "--json"], ["--help"], ["--version"], ["run", "--help"]]
)
def test_a_reader_that_has_seen_enough_is_told_nothing(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "proxy", *words]
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(command, check=False, stdout=output, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize("words", [["check"], ["--help"], ["policy", "schema"]])
def test_a_disk_that_is_full_is_no_bug(words):
    command = [sys.executable, "-m", "proxy", *words]
    with Path("/dev/full").open("wb") as output:
        done = subprocess.run(command, check=False, stdout=output, stderr=subprocess.PIPE)

    assert done.returncode == 1
    assert done.stderr.startswith(b"offramp: No space left on device\nhint: ")


@pytest.mark.parametrize("letters", ["ascii", "latin-1"])
def test_what_a_locale_has_no_letters_for_is_escaped_and_no_bug(tmp_path, letters):
    (tmp_path / "\N{GREEK SMALL LETTER PI}.yaml").write_text("listen: 127.0.0.1:18080\n")
    command = [sys.executable, "-m", "proxy", "check", "--config"]
    done = subprocess.run(
        [*command, tmp_path / "\N{GREEK SMALL LETTER PI}.yaml"],
        check=False,
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": letters},
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u03c0.yaml:1:9" in done.stdout


def test_what_the_machine_refuses_is_named_and_its_traceback_is_for_whoever_asked(run):
    with a_failing_command("demo", PermissionError(13, "Permission denied", "/some/place")):
        code, _, errors = run("demo")
        debug_code, _, debug_errors = run("--debug", "demo")

    assert (code, debug_code) == (1, 1)
    assert errors.startswith("offramp: /some/place: Permission denied\nhint: ")
    assert "Traceback" in debug_errors


def test_an_output_that_is_closed_from_the_start_is_no_bug():
    command = ["sh", "-c", 'exec "$0" -m proxy check >&-', sys.executable]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE)

    assert (done.returncode, done.stderr) == (0, b"")


# A package that is called like ours.


@pytest.fixture
def installed(tmp_path):
    """Install a distribution, as far as its list of files goes."""

    def made(name, *files):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "RECORD").write_text("".join(f"{file},,\n" for file in files))
        return PathDistribution(folder)

    return made


def test_another_distribution_with_a_package_proxy_is_refused_by_name(installed):
    ours = installed("offramp", "proxy/__init__.py", "policies/__init__.py")
    theirs = installed("proxy.py", "other.py", "proxy/__init__.py")

    with pytest.raises(ConfigError, match=r"'proxy\.py'") as raised:
        refuse_namesake([ours, theirs])

    assert "pip uninstall proxy.py" in str(raised.value.hint)


def test_packages_that_only_sound_alike_are_welcome(installed):
    refuse_namesake(
        [
            installed("offramp", "proxy/__init__.py"),
            installed("aproxy", "aproxy/__init__.py", "lib/proxy/__init__.py"),
            installed("b", "proxy_tools/__init__.py", "proxy.py"),
            PathDistribution(installed("c")._path.parent / "gone.dist-info"),
        ]
    )


def test_this_environment_is_ours_alone():
    refuse_namesake()


# check and credential.


def test_check_prints_every_value_and_its_origin(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFRAMP_LOG__LEVEL", "debug")
    file = tmp_path / "offramp.yaml"
    file.write_text("batching: {linger: 5s}\n")

    code, output, _ = run("check", "--config", file)

    lines = [line.split() for line in output.decode().splitlines()]
    assert code == 0
    assert ["batching.linger", "5s", f"{file}:1:20"] in lines
    assert ["log.level", "debug", "OFFRAMP_LOG__LEVEL"] in lines
    assert ["listen", "127.0.0.1:8080", "default"] in lines


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("secret_key_file: words", "words is open to others"),
        ("secret_key_file: private", "line 1: expected 'key' or 'hash'"),
        ("tls: {cert_file: words, key_file: words}", "words: certificate and key cannot be used"),
        ("admin: {tls: {cert_file: words, key_file: words}}", "certificate and key cannot be used"),
    ],
)
def test_check_refuses_what_a_start_would(run, tmp_path, text, problem):
    (tmp_path / "words").write_text("some words\n")
    (tmp_path / "words").chmod(0o644)
    (tmp_path / "private").write_text("some words\n")
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "offramp.yaml").write_text(text)

    code, _, errors = run("check", "--config", tmp_path / "offramp.yaml")
    json_code, output, _ = run("check", "--json", "--config", tmp_path / "offramp.yaml")

    assert (code, json_code) == (3, 3)
    assert problem in errors
    assert problem in "".join(one["problem"] for one in json.loads(output)["complaints"])


def test_check_takes_files_that_a_start_can_use(run, tmp_path):
    certificate = write_certificate(tmp_path / "tls.pem")
    Vault.load_or_create(tmp_path / "keys")
    (tmp_path / "offramp.yaml").write_text(
        f"{{tls: {{cert_file: {certificate}, key_file: {certificate}}}, secret_key_file: keys}}"
    )

    assert run("check", "--config", tmp_path / "offramp.yaml")[0] == 0


def test_check_speaks_json(run, tmp_path):
    code, output, _ = run("check", "--json")

    content = json.loads(output)
    assert (code, content["usable"]) == (0, True)
    assert {"key": "listen", "value": "127.0.0.1:8080", "origin": "default"} in content["settings"]


def test_check_reads_the_price_list_as_a_start_does(run, tmp_path):
    provider = {
        "address": "https://api",
        "models": [{"match": [["m-1"]], "standard": {"input": 1}}],
    }
    prices = tmp_path / "prices.json"
    prices.write_text(
        json.dumps({"as_of": "2026", "source": "me", "providers": {"openai": provider}})
    )
    config = tmp_path / "offramp.yaml"
    config.write_text(f"prices: {{file: {prices}}}\nstore: sqlite://{tmp_path}/x.db\n")

    code, _, err = run("check", "--config", str(config))

    assert code == 3
    assert f"{config}:1:16: prices.file: {prices} is no price list" in err
    assert "no pattern of a price list: 'm-1'" in err


def test_a_bad_configuration_ends_with_3_and_every_complaint(run, tmp_path):
    file = tmp_path / "offramp.yaml"
    file.write_text("listen: x\nlog: {level: y}\n")

    code, output, errors = run("check", "--config", file)
    json_code, json_output, _ = run("check", "--config", file, "--json")

    assert (code, output, json_code) == (3, b"", 3)
    assert "2 problems" in errors
    assert "`offramp check`" not in errors
    assert f"{file}:1:9: listen" in errors
    assert f"{file}:2:14: log.level" in errors
    content = json.loads(json_output)
    assert content["usable"] is False
    assert [one["key"] for one in content["complaints"]] == ["listen", "log.level"]


def test_check_looks_at_every_file_beside_a_bad_value_and_tells_of_each_once(run, tmp_path):
    rules, words = tmp_path / "rules.yaml", tmp_path / "words"
    rules.write_text("rules:\n  - nam: x\n")
    words.write_text("some words\n")
    file = tmp_path / "offramp.yaml"
    file.write_text(
        "log: {level: y}\n"
        "policies: rules.yaml\n"
        "tls: {cert_file: words, key_file: words}\n"
        "admin: {tls: {cert_file: words, key_file: absent}}\n"
        "prices: {file: nowhere.json}\n"
        "store: redis://host:99999999\n"
    )

    code, output, _ = run("check", "--json", "--config", file)

    complaints = json.loads(output)["complaints"]
    assert code == 3
    assert [(one["place"], one["key"]) for one in complaints] == [
        (f"{file}:1:14", "log.level"),
        (f"{file}:3:18", "tls.cert_file"),
        (f"{file}:4:43", "admin.tls.key_file"),
        (f"{file}:5:16", "prices.file"),
        (f"{file}:6:8", "store"),
        *[(f"{rules}:2:5", "policies")] * 3,
        ("default", "secret_key_file"),
    ]


def test_check_names_rules_that_are_not_there_once(run, tmp_path):
    file = tmp_path / "offramp.yaml"
    file.write_text("policies: absent.yaml\n")

    _, output, _ = run("check", "--json", "--config", file)

    assert [one["key"] for one in json.loads(output)["complaints"]] == ["policies"]


def test_check_knows_whose_prices_there_are(run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("prices: {providers: {openai: opnai, gemini: google}}\n")

    code, _, err = run("check", "--config", config)

    assert code == 3
    assert err.startswith(
        f"offramp: {config}:1:30: prices.providers.openai: 'opnai' is no provider of the price list"
    )
    assert "google" in err


def test_check_reads_the_url_of_a_redis_as_a_start_would(run, tmp_path, monkeypatch):
    key = tmp_path / "offramp.key"
    Vault.load_or_create(key)
    monkeypatch.setenv("OFFRAMP_SECRET_KEY_FILE", str(key))
    codes = {}
    for url in ("redis://:canary@h/0", "redis://:canary@h/x", "rediss://:canary@h?ca=/no/ca.pem"):
        monkeypatch.setenv("OFFRAMP_STORE", url)
        codes[url], _, errors = run("check")

        assert "canary" not in errors
        assert codes[url] == 0 or "OFFRAMP_STORE: store: " in errors

    assert list(codes.values()) == [0, 3, 3]


@pytest.mark.parametrize("text", ["abc", "abc\n", "Bearer abc\n"])
def test_a_token_is_read_from_standard_input_and_hashed(run, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    code, output, _ = run("credential", "hash")

    assert code == 0
    # The SHA-256 of "abc" as published: FIPS 180-4, example B.1.
    assert output == (b"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n")


@pytest.mark.parametrize(
    "text", ["", "\n", "one two", "one\ntwo", "Bearer one two", "\udcff\udcfe"]
)
def test_what_is_no_token_is_wrong_usage(run, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    assert run("credential", "hash")[0] == 2


# Jobs of a running proxy.


def make_object(**changes):
    return {
        "id": JOB,
        "object": "deferrable.job",
        "status": "queued",
        "created_at": 1_795_435_200,
        "model": "gpt-4o-mini",
        "lane": {"name": "batch", "reason": "26h to the deadline"},
        "tags": {},
        "error": None,
        **changes,
    }


def test_jobs_are_asked_for_with_the_callers_key(run, proxy, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "sk-other")
    proxy.answer("/v1/jobs?limit=20", {"data": []})

    run("jobs", "list", "--url", proxy.url)
    run("jobs", "list", "--url", proxy.url, "--api-key-env", "OTHER_API_KEY")

    keys = [headers["Authorization"] for _, _, headers in proxy.requests]
    assert keys == [f"Bearer {KEY}", "Bearer sk-other"]


def test_without_a_key_it_says_which_variable_is_empty(run, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")

    code, _, errors = run("jobs", "list")

    assert code == 2
    assert "OPENAI_API_KEY is not set" in errors


@pytest.mark.parametrize("key", ["sk-canary\nsk-other", "sk-cänary"])
def test_a_key_that_no_header_can_carry_is_told_and_never_shown(run, proxy, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)

    code, _, errors = run("jobs", "list", "--url", proxy.url)

    assert (code, proxy.requests) == (1, [])
    assert errors == "offramp: the key holds characters that no header can carry\n"


@pytest.mark.parametrize("url", ["http://a..b", "http://127.0.0.1:1/é"])
def test_a_url_that_cannot_be_asked_is_no_bug(run, url):
    code, _, errors = run("jobs", "list", "--url", url)

    assert code == 1
    assert errors.startswith(f"offramp: cannot reach {url}: ")


def test_jobs_are_listed_as_a_table_and_as_json(run, proxy):
    target = "/v1/jobs?status=queued&tag=team%3Detl&limit=5"
    page = {"object": "list", "data": [make_object()], "has_more": True, "last_id": JOB}
    proxy.answer(target, page)
    words = ("jobs", "list", "--url", proxy.url, "--status", "queued", "--tag", "team=etl")

    code, output, errors = run(*words, "--limit", 5)
    _, json_output, _ = run(*words, "--limit", 5, "--json")

    assert code == 0
    header, row = output.decode().splitlines()
    assert header.split() == ["id", "status", "model", "lane", "created_at", "deadline"]
    assert row.split() == [
        JOB,
        "queued",
        "gpt-4o-mini",
        "batch",
        "2026-11-23",
        "12:00:00Z",
        "-",
    ]
    assert f"--after {JOB}" in errors
    assert json.loads(json_output) == page


def test_a_listed_job_that_the_store_cannot_read_says_so(run, proxy):
    error = {"code": "store_corrupt", "message": "a stored job cannot be read"}
    unread = {"id": JOB, "object": "deferrable.job", "status": None, "error": error}
    proxy.answer("/v1/jobs?limit=20", {"data": [unread], "has_more": False})

    code, output, _ = run("jobs", "list", "--url", proxy.url)

    assert code == 0
    assert output.decode().splitlines()[1].split() == [JOB, "cannot", "be", "read", *"----"]


@pytest.mark.parametrize(("dollars", "told"), [(4.485e-05, "0.00004485"), (0.0, "0"), (2.5, "2.5")])
def test_small_sums_are_told_without_powers_of_ten(run, proxy, dollars, told):
    proxy.answer(f"/v1/jobs/{JOB}", make_object(cost={"list_usd": dollars}))

    _, output, _ = run("jobs", "show", JOB, "--url", proxy.url)

    lines = [line.split() for line in output.decode().splitlines()]
    assert lines[0] == ["id", JOB]
    assert ["cost.list_usd", told] in lines


def test_a_job_is_shown_with_everything_that_is_known(run, proxy):
    proxy.answer(f"/v1/jobs/{JOB}", make_object())

    code, output, _ = run("jobs", "show", JOB, "--url", proxy.url)

    lines = [line.split(maxsplit=1) for line in output.decode().splitlines() if line.strip()]
    assert code == 0
    assert ["lane.reason", "26h to the deadline"] in [
        [name, value.strip()] for name, value in lines
    ]


def test_a_mistyped_job_is_found_before_anything_is_asked(run, proxy):
    wrong = JOB[:-1] + ("0" if JOB[-1] != "0" else "1")

    code, _, errors = run("jobs", "show", wrong, "--url", proxy.url)

    assert code == 2
    assert "no job ID" in errors
    assert proxy.requests == []


@pytest.fixture
def pauses(monkeypatch):
    """Keep the pauses of `jobs wait`, in which no time passes."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.mark.parametrize("timeout", [[], ["--timeout", "inf"], ["--timeout", "nan"]])
def test_wait_asks_until_the_job_has_ended(run, proxy, pauses, timeout):
    target = f"/v1/jobs/{JOB}?wait=60"
    for status in ("queued", "in_progress", "completed"):
        proxy.answer(target, make_object(status=status))

    code, output, _ = run("jobs", "wait", JOB, "--url", proxy.url, "--json", *timeout)

    assert code == 0
    assert json.loads(output)["status"] == "completed"
    assert len(proxy.requests) == 3
    # Who is about to end answers at once.
    assert pauses == [1, 1]


@pytest.mark.parametrize("status", [HUNG_UP, 503])
def test_wait_outlasts_a_proxy_that_is_started_anew(run, proxy, pauses, status):
    target = f"/v1/jobs/{JOB}?wait=60"
    proxy.answer(target, make_object())
    proxy.answer(target, b"", status=status)
    proxy.answer(target, make_object(status="completed"))

    assert run("jobs", "wait", JOB, "--url", proxy.url)[0] == 0
    assert pauses == [1, 1]


def test_wait_does_not_wait_for_a_proxy_that_never_was_there(run, proxy, pauses):
    proxy.answer(f"/v1/jobs/{JOB}?wait=60", b"", status=HUNG_UP)

    code, _, errors = run("jobs", "wait", JOB, "--url", proxy.url)

    assert code == 1
    assert "cannot reach" in errors
    assert pauses == []


def test_wait_asks_without_being_held_where_too_many_are(run, proxy, pauses):
    proxy.answer(f"/v1/jobs/{JOB}?wait=60", {"title": "too many held"}, status=429)
    for status in ("in_progress", "completed"):
        proxy.answer(f"/v1/jobs/{JOB}", make_object(status=status))

    assert run("jobs", "wait", JOB, "--url", proxy.url)[0] == 0
    assert pauses == [1]


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_wait_fails_if_the_job_was_not_completed(run, proxy, status):
    proxy.answer(f"/v1/jobs/{JOB}?wait=60", make_object(status=status))

    assert run("jobs", "wait", JOB, "--url", proxy.url)[0] == 1


def test_wait_gives_up_at_its_timeout(run, proxy):
    proxy.answer(f"/v1/jobs/{JOB}?wait=0", make_object())

    code, _, errors = run("jobs", "wait", JOB, "--url", proxy.url, "--timeout", 0)

    assert code == 1
    assert f"job {JOB} is still queued" in errors


def test_a_result_is_written_byte_for_byte(run, proxy):
    body = b'{ "id":"x",\r\n "\xc3\xa9": 1}\n\n'
    proxy.answer(f"/v1/jobs/{JOB}/result", body)

    code, output, _ = run("jobs", "result", JOB, "--url", proxy.url)

    assert (code, output) == (0, body)


def test_a_providers_error_is_written_and_fails(run, proxy):
    body = b'{"error": {"message": "no"}}'
    proxy.answer(f"/v1/jobs/{JOB}/result", body, status=400)

    assert run("jobs", "result", JOB, "--url", proxy.url)[:2] == (1, body)


def test_a_result_that_is_not_there_yet_fails_without_output(run, proxy):
    proxy.answer(f"/v1/jobs/{JOB}/result", make_object(), status=202)

    code, output, errors = run("jobs", "result", JOB, "--url", proxy.url)

    assert (code, output) == (1, b"")
    assert f"hint: offramp jobs wait {JOB}" in errors


@pytest.mark.parametrize(
    ("status", "said"), [(404, f"no job {JOB}"), (400, f"job {JOB} was cancelled")]
)
def test_a_refusal_of_the_proxy_is_a_message_and_no_result(run, proxy, status, said):
    problem = {"title": "No", "error": {"message": said}}
    proxy.answer(
        f"/v1/jobs/{JOB}/result", problem, status=status, content_type="application/problem+json"
    )

    code, output, errors = run("jobs", "result", JOB, "--url", proxy.url)

    assert (code, output) == (1, b"")
    assert errors == f"offramp: HTTP {status}: {said}\n"


def test_cancel_posts_once_for_each_job(run, proxy):
    other = IDS.job()
    for job in (JOB, other):
        proxy.answer(f"/v1/jobs/{job}/cancel", make_object(id=job, status="cancelled"))

    code, output, _ = run("jobs", "cancel", JOB, other, "--url", proxy.url)

    assert code == 0
    assert [(method, path) for method, path, _ in proxy.requests] == [
        ("POST", f"/v1/jobs/{JOB}/cancel"),
        ("POST", f"/v1/jobs/{other}/cancel"),
    ]
    assert output.count(b"cancelled") == 2


def test_a_job_that_cannot_be_cancelled_keeps_no_other_from_it(run, proxy):
    others = [IDS.job(), IDS.job()]
    problem = {"title": "Not Found", "error": {"message": f"no job {JOB}"}}
    proxy.answer(f"/v1/jobs/{JOB}/cancel", problem, status=404)
    proxy.answer(f"/v1/jobs/{others[0]}/cancel", b"", status=503)
    proxy.answer(f"/v1/jobs/{others[1]}/cancel", make_object(id=others[1], status="cancelled"))

    code, output, errors = run("jobs", "cancel", JOB, *others, "--url", proxy.url)

    assert code == 1
    assert output.decode().split() == ["id", "status", others[1], "cancelled"]
    assert errors.splitlines() == [
        "offramp: 2 problems",
        f"  HTTP 404: no job {JOB}",
        f"  {others[0]}: HTTP 503: no message",
    ]


def test_a_proxy_that_does_not_run_is_a_hint_and_no_traceback(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, _, errors = run("jobs", "list", "--url", url)

    assert code == 1
    assert errors.startswith(f"offramp: cannot reach {url}: ")
    assert "hint: is `offramp serve` running there," in errors
    assert KEY not in errors


def test_something_else_that_listens_there_is_no_proxy(run, proxy):
    proxy.answer("/v1/jobs?limit=20", b"<html>", content_type="text/html")

    code, _, errors = run("jobs", "list", "--url", proxy.url)

    assert code == 1
    assert "is this an offramp?" in errors


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (
            # The listener for operators.
            {"error": {"code": "path_not_found", "message": "there is no /v1/jobs here"}},
            "application/json",
        ),
        (b"404: Not Found", "text/plain"),
        (
            {"error": {"message": "Invalid URL", "code": None, "type": "x", "param": None}},
            "application/json",
        ),
    ],
)
def test_a_port_that_knows_no_jobs_is_doubted(run, proxy, content, content_type):
    proxy.answer("/v1/jobs?limit=20", content, status=404, content_type=content_type)

    code, _, errors = run("jobs", "list", "--url", proxy.url)

    assert code == 1
    assert errors.startswith("offramp: HTTP 404: ")
    assert "hint: is `offramp serve` running there, and is this its port for callers?" in errors


def test_the_port_for_callers_has_no_bill(run, proxy):
    target = "/ledger?by=model"
    unknown = {"message": "no upstream follows", "type": "x", "param": None, "code": "y"}
    proxy.answer(target, {"error": unknown}, status=404)

    code, _, errors = run("bill", "--admin-url", proxy.url)

    assert code == 1
    assert "hint: the bill is on the proxy's admin listener" in errors


def test_what_the_right_port_refuses_is_no_question_of_ports(run, proxy):
    proxy.answer("/batches/b", {"error": {"code": "x", "message": "no such batch"}}, status=404)

    _, _, errors = run("batches", "show", "b", "--admin-url", proxy.url)

    assert errors == "offramp: HTTP 404: no such batch\n"


def test_a_redirect_is_not_followed_with_the_key(run, proxy):
    proxy.answer("/v1/jobs?limit=20", {"data": []}, status=302)

    run("jobs", "list", "--url", proxy.url)

    assert len(proxy.requests) == 1


@pytest.mark.parametrize("url", ["ftp://x", "x:1", "http://", "http://u:p@x", "http://x:port"])
def test_a_url_that_is_none_is_refused(run, url):
    code, _, errors = run("jobs", "list", "--url", url)

    assert code == 1
    assert "must be http(s)://host[:port][/path]" in errors


# Batches of a running proxy.


@pytest.mark.parametrize(("there_are", "are_all"), [(1, True), (2, False)])
def test_a_full_list_of_batches_says_that_there_may_be_more(run, proxy, there_are, are_all):
    proxy.answer("/batches?limit=2", {"data": [{"id": "b"}] * there_are})

    _, _, errors = run("batches", "list", "--limit", 2, "--admin-url", proxy.url)

    assert ("there may be more" not in errors) == are_all


def test_times_of_batches_stand_as_those_of_jobs_do(run, proxy):
    batch = {"id": "b", "created_at": "2026-11-23T12:00:00.123456Z"}
    proxy.answer("/batches?limit=20", {"data": [batch]})
    proxy.answer("/batches/b", batch)

    _, listed, _ = run("batches", "list", "--admin-url", proxy.url)
    _, shown, _ = run("batches", "show", "b", "--admin-url", proxy.url)

    for output in (listed, shown):
        assert b" 2026-11-23 12:00:00Z" in output


BILL: dict[str, Any] = {
    "since": "2026-10-25",
    "until": "2026-11-23",
    "prices": {"as_of": "2026-11-26", "source": "genai-prices"},
    "total": {
        "jobs": 3,
        "unpriced": 1,
        "tokens": {"input": 300, "cached": 64, "output": 20},
        "list_usd": 4.0,
        "paid_usd": 2.0,
        "saved_usd": 1.75,
        "useless": {"answers": 1, "usd": 0.25},
        "escalated": {"answers": 2, "usd": 0.5},
        "cache_lost_usd": 0.01,
        "possible_doubles": {"attempts": 7, "usd": 1.0, "unpriced": 2},
    },
}


def test_the_bill_says_what_was_saved_and_what_was_not(run, proxy, monkeypatch):
    monkeypatch.setenv("OFFRAMP_ADMIN_URL", proxy.url)
    row = {"model": "gpt-\x1b[2J5", "lane": "batch", **BILL["total"]}
    proxy.answer("/ledger?by=model%2Clane&since=2026-10-25", BILL | {"rows": [row]})

    code, out, _ = run("bill", "--by", "model,lane", "--since", "2026-10-25")

    assert code == 0
    out = out.decode()
    assert "\x1b" not in out
    for shown in (
        "batch  3     300        20   $4.0000  $2.0000  $0.2500  $1.7500  1",
        "bought in vain                       $0.2500 (1 answer)",
        "not saved: called at full price      $0.5000 (2 answers)",
        "possibly bought twice, at most       $1.0000 (7 attempts, 2 of them in no amount)",
        "without a known price                1 answer, in no amount above",
        "prices as of                         2026-11-26, genai-prices",
    ):
        assert shown in out


def test_the_bill_never_shows_what_it_does_not_know_as_free(run, proxy):
    nothing = {
        "jobs": 2,
        "unpriced": 2,
        "list_usd": 0.0,
        "paid_usd": 0.0,
        "saved_usd": 0.0,
        "useless": {"answers": 0, "usd": 0.0},
        "possible_doubles": {"attempts": 2, "usd": 0.0, "unpriced": 2},
    }
    row = {"model": "gpt-new", **nothing}
    proxy.answer("/ledger?by=model", BILL | {"total": nothing, "rows": [row]})

    code, out, _ = run("bill", "--admin-url", proxy.url)

    assert code == 0
    shown = out.decode()
    assert "unknown  unknown  unknown  unknown  2" in shown
    assert "possibly bought twice, at most       unknown (2 attempts)" in shown


def test_the_bill_for_machines_is_what_the_proxy_says(run, proxy):
    proxy.answer("/ledger?by=model", BILL)

    code, out, _ = run("bill", "--admin-url", proxy.url, "--json")

    assert (code, json.loads(out)) == (0, BILL)


def test_a_bill_for_machines_takes_any_name_of_a_model(run, proxy):
    rows = [{"model": "\ud800"}, {"model": "\x9b2J"}, {"model": "\N{GREEK SMALL LETTER MU}"}]
    proxy.answer("/ledger?by=model", BILL | {"rows": rows})

    code, out, _ = run("bill", "--admin-url", proxy.url, "--json")

    assert code == 0
    assert json.loads(out)["rows"] == rows
    assert out.replace(b"\n", b"").isascii()


def test_a_breakdown_that_there_is_not_is_refused_by_the_proxy(run, proxy):
    error = {"error": {"code": "bad_query", "message": "by must be some of upstream"}}
    proxy.answer("/ledger?by=colour", error, status=400)

    code, _, err = run("bill", "--by", "colour", "--admin-url", proxy.url)

    assert code == 2
    assert err.endswith("Error: by must be some of upstream\n")


@pytest.fixture(scope="module")
def etl_lines():
    """A week of one program that nobody waits for, as the proxy records it."""
    calls = next(Week(random.Random(1)).scenes())
    return b"".join(json.dumps(one).encode() + b"\n" for one in calls)


@pytest.fixture
def facts(tmp_path, etl_lines):
    file = tmp_path / "facts.jsonl"
    half = etl_lines.index(b"\n", len(etl_lines) // 2) + 1
    # As `recording` leaves them: the older half beside the newer one.
    file.with_name("facts.jsonl.1").write_bytes(etl_lines[:half])
    file.write_bytes(etl_lines[half:])
    return file


@pytest.fixture
def recording(tmp_path, facts):
    config = tmp_path / "offramp.yaml"
    config.write_text(f"recording: {{path: {facts}, sample: 0.5}}\n")
    return str(config)


def test_the_audit_proposes_a_rule_to_paste_and_says_what_it_saves(run, recording):
    code, out, err = run("audit", "--config", recording)

    text = out.decode()
    assert (code, err) == (0, "")
    assert "840 recorded calls of 6 days" in text
    assert "acme-etl/*" in text
    assert "every day at 01:0" in text
    _, rules, after = text.partition("rules:\n")
    (rule,) = load_policies(rules + after, "pasted").rules.compiled
    assert rule.rule.name == "acme-etl-v1-chat-completions"


def test_the_audit_for_machines_has_everything(run, recording):
    code, out, _ = run("audit", "--config", recording, "--json")

    report = json.loads(out)
    assert (code, report["calls"], report["unreadable"]) == (0, 840, 0)
    (segment,) = report["segments"]
    (proposal,) = report["proposals"]
    assert segment["nobody_waits"]
    assert proposal["saved_usd"] == pytest.approx(proposal["list_usd"] / 2)
    assert report["shadow"]["etl-shadow"]["also_proposed"] == 840
    # Half of the calls were recorded, in a bit more than six days.
    assert report["month_scale"] == pytest.approx(2 * 30 / 6, rel=0.01)


def test_the_audit_shows_what_shadow_rules_counted(run, recording):
    code, out, _ = run("audit", "--config", recording, "--shadow")

    assert code == 0
    assert b"etl-shadow" in out
    assert b"840 of 840" in out


def test_the_audit_says_what_its_table_leaves_out(run, tmp_path, etl_lines):
    call = json.loads(etl_lines.splitlines()[0])
    facts = tmp_path / "facts.jsonl"
    lines = [json.dumps(call | {"model": f"m-{number}"}) + "\n" for number in range(14)]
    facts.write_text("".join(lines))

    _, many, _ = run("audit", "--facts", str(facts))
    facts.write_text(lines[0])
    _, one, _ = run("audit", "--facts", str(facts))

    assert "14 recorded calls" in many.decode()
    assert many.count(b"  openai  ") == 12
    assert "\nand 2 more: --json shows all\n" in many.decode()
    assert one.startswith(b"1 recorded call of less than a day")
    assert b"more: --json" not in one


def test_the_audit_tells_no_month_from_less_than_a_day(run, tmp_path, etl_lines):
    facts = tmp_path / "facts.jsonl"
    facts.write_bytes(b"".join(etl_lines.splitlines(keepends=True)[:100]))

    _, audit, _ = run("audit", "--facts", str(facts))
    _, shadows, _ = run("audit", "--facts", str(facts), "--shadow")
    _, report, _ = run("audit", "--facts", str(facts), "--json")

    assert b"100 recorded calls of less than a day" in audit
    assert b"a month: not told from less than a day" in shadows
    assert shadows.count(b"$") == 3
    assert json.loads(report)["month_scale"] is None


def test_the_audit_reads_other_files_and_other_nights(run, facts):
    code, out, _ = run("audit", "--facts", str(facts), "--zone", "Asia/Tokyo")

    assert code == 0
    assert b"at night" not in out


@pytest.mark.parametrize("zone", ["Europe", "Mars/Olympus", "../UTC", ""])
def test_an_audit_without_such_a_time_zone_is_wrong_usage(run, zone):
    code, _, err = run("audit", "--zone", zone)

    assert code == 2
    assert "time zone of the IANA database" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [("{}", "recording.path is not set"), ("recording: {path: facts}", "nothing is recorded yet")],
)
def test_an_audit_of_nothing_says_what_to_do(run, tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "offramp.yaml"
    config.write_text(text)

    code, _, err = run("audit", "--config", str(config))

    assert code == 3
    assert said in err


def test_a_zone_that_there_is_not_is_wrong_usage(run, facts):
    assert run("audit", "--facts", str(facts), "--zone", "Mars/Olympus")[0] == 2


def test_batches_come_from_the_operators_listener(run, proxy, monkeypatch):
    monkeypatch.setenv("OFFRAMP_ADMIN_TOKEN", "t0ken")
    monkeypatch.setenv("OFFRAMP_ADMIN_URL", proxy.url)
    proxy.answer("/batches?limit=20", {"data": [{"id": "b1", "state": "sealed", "jobs": 3}]})
    proxy.answer("/batches/b1", {"id": "b1", "twins": [], "error": None})

    listed = run("batches", "list")
    shown = run("batches", "show", "b1", "--json")

    assert listed[0] == 0
    assert listed[1].split(b"\n")[1].split()[:2] == [b"b1", b"sealed"]
    assert json.loads(shown[1])["id"] == "b1"
    assert {headers["Authorization"] for _, _, headers in proxy.requests} == {"Bearer t0ken"}


def test_whose_token_is_refused_is_told_where_it_is_read_from(run, proxy):
    said = "send the token of admin.token_file as a bearer token"
    refused = {"error": {"code": "bad_token", "message": said}}
    proxy.answer("/batches?limit=20", refused, status=401)

    _, _, errors = run("batches", "list", "--admin-url", proxy.url)

    assert errors == f"offramp: HTTP 401: {said}\nhint: OFFRAMP_ADMIN_TOKEN holds it\n"


def test_without_a_token_none_is_sent_and_never_the_callers_key(run, proxy):
    proxy.answer("/batches?limit=20", {"data": []})

    run("batches", "list", "--admin-url", proxy.url)

    assert "Authorization" not in proxy.requests[0][2]


def test_audit_says_of_a_file_that_holds_something_else_that_it_does(run, tmp_path):
    (tmp_path / "other").write_text("one\ntwo\n")

    code, output, errors = run("audit", "--facts", tmp_path / "other")

    assert (code, output) == (0, b"nothing is recorded\n")
    assert errors == "lines that are no recorded call: 2\n"


def test_a_batch_is_shown_by_the_id_that_gemini_gave_it(run, proxy):
    proxy.answer("/batches/batches%2Fab..%2F12", {"id": "b1"})

    code, output, _ = run("batches", "show", "batches/ab../12", "--admin-url", proxy.url)

    assert (code, output.split()) == (0, [b"id", b"b1"])


def test_a_batch_id_cannot_reach_another_path(run, proxy):
    assert run("batches", "show", "../drain", "--admin-url", proxy.url)[0] == 2
    assert proxy.requests == []


def test_every_command_that_prints_speaks_json():
    for group in (jobs.command, batches.command):
        for command in group.commands.values():
            options = {option for one in command.params for option in one.opts}
            assert "--json" in options, command.name


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\nb", "a\x07", "\u202eabc"])
def test_what_a_terminal_would_obey_is_not_printed(text):
    shown = plain(text)

    assert shown.isprintable()
    assert len(shown) == len(text)

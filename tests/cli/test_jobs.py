"""`offramp jobs`: what a caller can ask of a running proxy."""

import json
import socket
import ssl
import time

import pytest

from proxy.cli.remote import LONG_POLL_S, patience_s
from tests.cli.listener import HUNG_UP, KEY
from tests.helpers.certificates import write_certificate
from tests.helpers.factories import IDS

JOB = IDS.job()


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


def test_who_asks_a_proxy_to_wait_waits_longer_and_nobody_else():
    assert patience_s({}) == patience_s({"limit": 20, "status": "queued"}) == 30
    assert patience_s({"wait": LONG_POLL_S}) == 30 + LONG_POLL_S


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


def test_a_certificate_that_nobody_vouches_for_is_told_with_what_to_do(
    run, proxy, tmp_path, monkeypatch
):
    chain = write_certificate(tmp_path / "own.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    url = f"https://127.0.0.1:{proxy.server_port}"
    proxy.answer("/v1/jobs?limit=20", {"object": "list", "data": []})

    code, _, errors = run("jobs", "list", "--url", url)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    trusted = run("jobs", "list", "--url", url)[0]

    assert (code, trusted) == (1, 0)
    assert f"cannot reach {url}: its certificate is not trusted: " in errors
    assert "hint: SSL_CERT_FILE" in errors


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


def test_a_redirect_is_not_followed_with_the_key(run, proxy):
    proxy.answer("/v1/jobs?limit=20", {"data": []}, status=302)

    run("jobs", "list", "--url", proxy.url)

    assert len(proxy.requests) == 1


@pytest.mark.parametrize("url", ["ftp://x", "x:1", "http://", "http://u:p@x", "http://x:port"])
@pytest.mark.parametrize(
    ("command", "option", "variable"),
    [
        (("jobs", "list"), "--url", "OFFRAMP_URL"),
        (("bill",), "--admin-url", "OFFRAMP_ADMIN_URL"),
        (("batches", "list"), "--admin-url", "OFFRAMP_ADMIN_URL"),
    ],
)
def test_a_url_that_is_none_is_bad_usage(run, monkeypatch, url, command, option, variable):
    code, _, errors = run(*command, option, url)
    monkeypatch.setenv(variable, url)
    by_variable, _, same_errors = run(*command)

    assert (code, by_variable) == (2, 2)
    for said in (errors, same_errors):
        assert f"'{option}'" in said
        assert "must be http(s)://host[:port][/path]" in said

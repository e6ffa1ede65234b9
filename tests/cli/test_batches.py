"""`offramp batches`: what an operator can ask of a running proxy."""

import json

import pytest


def test_what_the_right_port_refuses_is_no_question_of_ports(run, proxy):
    proxy.answer("/batches/b", {"error": {"code": "x", "message": "no such batch"}}, status=404)

    _, _, errors = run("batches", "show", "b", "--admin-url", proxy.url)

    assert errors == "offramp: HTTP 404: no such batch\n"


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


def test_a_batch_is_shown_by_the_id_that_gemini_gave_it(run, proxy):
    proxy.answer("/batches/batches%2Fab..%2F12", {"id": "b1"})

    code, output, _ = run("batches", "show", "batches/ab../12", "--admin-url", proxy.url)

    assert (code, output.split()) == (0, [b"id", b"b1"])


def test_a_batch_id_cannot_reach_another_path(run, proxy):
    assert run("batches", "show", "../drain", "--admin-url", proxy.url)[0] == 2
    assert proxy.requests == []

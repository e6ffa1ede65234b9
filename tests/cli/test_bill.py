"""`offramp bill`: what was saved, what was not, and what is not known."""

import json
from typing import Any

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


def test_the_bill_of_a_first_try_adds_up(run, proxy):
    small = {"jobs": 12, "list_usd": 0.0003336, "paid_usd": 0.0001668, "saved_usd": 0.0001668}
    proxy.answer("/ledger?by=model", BILL | {"total": small, "rows": [{"model": "m"} | small]})

    code, out, _ = run("bill", "--admin-url", proxy.url)

    assert code == 0
    assert "$0.000334  $0.000167  -        $0.000167" in out.decode()


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


def test_the_port_for_callers_has_no_bill(run, proxy):
    target = "/ledger?by=model"
    unknown = {"message": "no upstream follows", "type": "x", "param": None, "code": "y"}
    proxy.answer(target, {"error": unknown}, status=404)

    code, _, errors = run("bill", "--admin-url", proxy.url)

    assert code == 1
    assert "hint: the bill is on the proxy's admin listener" in errors

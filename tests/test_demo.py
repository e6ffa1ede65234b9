"""The demo is the first thing that anybody sees: it must work, and tell the truth."""

import json
import subprocess
import sys

import pytest


def demo(*words: str) -> str:
    """Return what it prints. A process of its own: it says how everything in one is logged."""
    command = [sys.executable, "-m", "proxy", "demo", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_demo_halves_the_deferred_part_of_the_bill():
    bill = json.loads(demo("--jobs", "24", "--json"))

    assert (bill["forwarded"], bill["deferred"], bill["wrong_answers"]) == (12, 12, 0)
    assert bill["batches"] >= 1
    assert 0 < bill["paid_usd"] < bill["list_usd"]
    assert bill["saved_usd"] == pytest.approx(bill["list_usd"] - bill["paid_usd"])
    apis = bill["apis"]
    assert [(share["forwarded"], share["deferred"]) for share in apis] == [(4, 4)] * 3
    assert sum(share["paid_usd"] for share in apis) == pytest.approx(bill["paid_usd"])
    # Half of the calls at half the price, give or take the lengths of their answers.
    assert 0.2 < bill["saved_usd"] / bill["list_usd"] < 0.3


def test_the_demo_shows_people_a_bill():
    shown = demo("--jobs", "4")

    assert "saved" in shown
    assert all(api in shown for api in ("OpenAI", "Anthropic", "Gemini"))
    assert "Every deferred result is the one that a direct call is answered." in shown

"""`offramp audit`: rules to paste, and what they would save."""

import json
import random
import sys

import click
import pytest

from policies.load import load_policies
from tests.helpers.traffic_week import Week


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


def test_a_narrow_terminal_breaks_no_word_of_the_audit(run, recording, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "48")

    _, out, _ = run("audit", "--config", recording)

    assert "nobody waits  application  would save\n" in click.unstyle(out.decode())


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


def test_audit_says_of_a_file_that_holds_something_else_that_it_does(run, tmp_path):
    (tmp_path / "other").write_text("one\ntwo\n")

    code, output, errors = run("audit", "--facts", tmp_path / "other")

    assert (code, output) == (0, b"nothing is recorded\n")
    assert errors == "lines that are no recorded call: 2\n"

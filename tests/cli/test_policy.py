"""`offramp policy`: rules are proved with the tables and the routing of live traffic."""

import io
import json
import subprocess
import sys

import jsonschema
import pytest

from proxy.cli import main
from tests.policies.test_readme import BLOCKS

RULES = """
rules:
  - name: humans-never-wait
    when: {headers: {x-user-facing: "*"}}
    then: interactive
  - name: nightly
    when: {headers: {user-agent: "*etl*"}, time: {between: "20:00-06:00"}}
    then: {defer: {deadline: 6h, tags: {by: rule}}}
  - name: rest
    when: {model: "gpt-*"}
    then: defer
    mode: shadow
"""
CALL = {"path": "/v1/chat/completions", "headers": {"User-Agent": "etl"}, "body": {"model": "m"}}
NIGHT = "2026-11-24T02:00:00Z"


@pytest.fixture
def rules(tmp_path):
    file = tmp_path / "policies.yaml"
    file.write_text(RULES)
    return file


def run(capsys, *words):
    code = main(["policy", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def with_tests(file, *tests):
    lines = "".join(f"  - {json.dumps(test)}\n" for test in tests)
    file.write_text(file.read_text() + "tests:\n" + lines)
    return file


def explained(capsys, monkeypatch, rules, call, *words):
    text = call if isinstance(call, str) else json.dumps(call)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    code, out, err = run(capsys, "explain", "--policies", rules, "--json", *words, "-")
    assert code == 0, err
    return json.loads(out)


PASSING = {"name": "night", "call": {**CALL, "now": NIGHT}, "expect": {"rule": "nightly"}}
FAILING = {"name": "noon", "call": CALL, "expect": {"rule": "nightly", "decision": "defer"}}


def test_tests_that_pass_end_with_0(capsys, rules):
    assert run(capsys, "test", with_tests(rules, PASSING)) == (0, "1 passed, 0 failed\n", "")


def test_a_test_that_fails_ends_with_1_and_says_where_and_what(capsys, rules):
    code, out, _ = run(capsys, "test", with_tests(rules, PASSING, FAILING))

    assert code == 1
    assert out.splitlines() == [
        f"{rules}:15: noon: rule is none, expected nightly",
        f"{rules}:15: noon: decision is interactive, expected defer",
        "1 passed, 1 failed",
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_file_without_tests_does_not_pass(capsys, rules, options):
    code, _, errors = run(capsys, "test", *options, rules)

    assert (code, errors) == (1, f"offramp: {rules}: holds no tests; they stand under `tests:`\n")


def test_rules_that_no_call_gets_to_are_noted_and_fail_nothing(capsys, tmp_path):
    file = tmp_path / "policies.yaml"
    file.write_text(
        "rules:\n"
        "  - {name: typo, when: {upstream: opneai}, then: defer}\n"
        "  - {name: 'off', then: interactive}\n"
        "  - {name: behind, when: {model: m}, then: defer}\n"
        "tests: [{name: none is deferred, call: {}, expect: {rule: 'off'}}]\n"
    )

    code, out, notes = run(capsys, "test", file)
    json_code, report, _ = run(capsys, "test", "--json", file)

    assert (code, json_code, out) == (0, 0, "1 passed, 0 failed\n")
    first, second = notes.splitlines()
    assert first.startswith(f"note: {file}:2: 'typo' never decides: no upstream is called opneai;")
    assert second.startswith(f"note: {file}:4: 'behind' never decides: 'off' in line 3 asks nothin")
    assert [one["rule"] for one in json.loads(report)["idle"]] == ["typo", "behind"]


def test_a_machine_gets_every_test(capsys, rules):
    code, out, _ = run(capsys, "test", "--json", with_tests(rules, PASSING, FAILING))

    report = json.loads(out)
    assert (code, report["passed"], report["failed"]) == (1, 1, 1)
    assert [test["passed"] for test in report["tests"]] == [True, False]
    assert len(report["tests"][1]["failures"]) == 2


def test_tests_may_stand_in_a_file_of_their_own(capsys, rules, tmp_path):
    alone = tmp_path / "tests.yaml"
    alone.write_text("")
    with_tests(alone, PASSING)

    assert run(capsys, "test", alone, "--policies", rules)[0] == 0
    code, _, err = run(capsys, "test", alone)
    assert code == 2
    assert "--policies" in err


def test_a_bad_file_ends_with_3_and_all_complaints(capsys, rules):
    rules.write_text("rules:\n  - {name: a, then: later}\n  - {name: b, then: {}}\n")

    code, _, err = run(capsys, "test", rules)
    machine, out, _ = run(capsys, "test", "--json", rules)

    assert code == machine == 3
    assert f"{rules}:2:21: 'later' is refused" in err
    assert f"{rules}:3:21:" in err
    assert err.endswith("hint: `offramp policy schema` prints what is allowed\n")
    assert json.loads(out)["usable"] is False
    assert len(json.loads(out)["complaints"]) == 2


def test_what_cannot_run_later_is_known_from_the_real_tables(capsys, rules):
    audio = {**CALL, "path": "/v1/audio/speech", "now": NIGHT}
    claude = {**CALL, "upstream": "nobody", "now": NIGHT}
    tests = [
        {"name": "no such path", "call": audio, "expect": {"rule": None}},
        {"name": "no such upstream", "call": claude, "expect": {"rule": None}},
    ]

    assert run(capsys, "test", with_tests(rules, *tests))[0] == 0


def test_upstreams_and_owners_are_those_of_the_configuration(capsys, monkeypatch, tmp_path):
    rules = tmp_path / "policies.yaml"
    rules.write_text("rules: [{name: r, when: {upstream: groq, owner: etl}, then: defer}]")
    config = tmp_path / "offramp.yaml"
    hashed = "sha256:a4ad14b3463463d00c0c3c6dfe62d6ad8c5a77d8d2be63e65c8ea8e4b5ae56d2"
    config.write_text(
        json.dumps(
            {
                "policies": "policies.yaml",
                "store": f"sqlite://{tmp_path}/x.db",
                "owners": {"etl": [hashed]},
                "upstreams": {"groq": {"dialect": "openai", "base_url": "https://x.example/o/v1"}},
            }
        )
    )
    call = {**CALL, "path": "/groq/chat/completions", "body": {"model": "m"}, "owner": "etl"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(call).encode())))

    code, out, err = run(capsys, "explain", "--config", config, "-")

    assert code == 0, err
    assert "rule: r" in out.splitlines()
    assert f"  {rules}:1: r: decides" in out.splitlines()


def test_an_explanation_says_why_every_earlier_rule_does_not_match(capsys, rules, tmp_path):
    request = tmp_path / "call.json"
    request.write_text(json.dumps({**CALL, "body": {"model": "gpt-5"}}))
    noon = "2026-11-24T12:00:00Z"
    missing = "headers.x-user-facing is missing, wanted *"

    code, out, _ = run(capsys, "explain", "--policies", rules, "--at", noon, request)

    assert code == 0
    assert out.splitlines() == [
        "decision: interactive",
        "shadow: rest",
        "decided_by: default",
        "reason: nobody asked to defer it",
        f"  {rules}:3: humans-never-wait: does not match: {missing}",
        f"  {rules}:6: nightly: does not match: time is 'Tue 12:00 UTC', wanted 20:00-06:00 UTC",
        f"  {rules}:9: rest: would decide",
    ]


def test_a_time_can_be_given_and_the_description_can_have_one(capsys, monkeypatch, rules):
    late = explained(capsys, monkeypatch, rules, CALL, "--at", NIGHT)
    said = explained(capsys, monkeypatch, rules, {**CALL, "now": NIGHT})
    overruled = explained(
        capsys, monkeypatch, rules, {**CALL, "now": NIGHT}, "--at", "2026-11-24T12:00:00Z"
    )

    assert late["rule"] == said["rule"] == "nightly"
    assert (late["answer"], late["deadline"], late["tags"]) == ("wait", "6h", {"by": "rule"})
    assert overruled["rule"] is None


def test_a_bad_time_is_wrong_usage(capsys, rules):
    code, _, err = run(capsys, "explain", "--policies", rules, "--at", "noon", "/dev/null")

    assert code == 2
    assert "2026-11-24T06:00:00Z" in err


def test_the_callers_own_wish_is_part_of_the_decision(capsys, monkeypatch, rules):
    tagged = {**CALL, "now": NIGHT, "headers": {"User-Agent": "etl", "X-Deferrable": "job"}}
    bad = {**CALL, "headers": {"X-Deferrable": "perhaps"}}

    job = explained(capsys, monkeypatch, rules, tagged)
    refused = explained(capsys, monkeypatch, rules, bad)

    assert (job["decided_by"], job["answer"]) == ("header:x-deferrable", "job")
    assert (refused["decision"], refused["status"], refused["steps"]) == ("reject", 400, [])
    assert "perhaps" in refused["reason"]


def test_a_captured_key_is_never_shown(capsys, monkeypatch, tmp_path):
    rules = tmp_path / "policies.yaml"
    rules.write_text(
        "rules: [{name: r, when: {headers: {x-tool: a, authorization: '*'}}, then: defer},"
        " {name: s, when: {owner: etl, credential: x}, then: defer}]"
    )
    call = {
        **CALL,
        "headers": {"Authorization": "Bearer sk-canary-123456", "X-Tool": "sk-canary-123456"},
    }

    told = explained(capsys, monkeypatch, rules, call)

    assert told["steps"][0]["key"] == "headers.x-tool"
    assert "canary" not in json.dumps(told)


@pytest.mark.parametrize(
    ("request_text", "problem"),
    [
        ("{", "call.json:1:2: not JSON: Expecting property name"),
        ('{"method": "POST",\n "path": "/v1" "x": 1}', "call.json:2:16: not JSON: Expecting ','"),
        ('{"path": "/\\q"}', "call.json:1:12: not JSON: Invalid \\escape"),
        ('{"tokens": ' + "1" * 5_000 + ", x", "not YAML"),
        ("method: [", "not YAML"),
        ('{"pat": "/v1"}', "did you mean 'path'"),
        ('{"path": "http://x/"}', "absolute-form"),
        (
            '{"path": "/anthropic/v1/messages", "headers": {"x-api-key": "sk-proj-canary"}}',
            "credential is one for openai",
        ),
        ('{"kind": "offramp.call/1"}', "no recorded call: time"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused_with_the_reason(
    capsys, rules, tmp_path, request_text, problem
):
    request = tmp_path / "call.json"
    request.write_text(request_text)

    code, out, err = run(capsys, "explain", "--policies", rules, request)

    assert (code, out) == (1, "")
    assert problem in err
    assert "canary" not in err


def test_an_explanation_needs_rules(capsys, tmp_path):
    request = tmp_path / "call.json"
    request.write_text("{}")

    assert run(capsys, "explain", request)[0] == 2


def test_the_schema_is_one_that_editors_take(capsys):
    code, out, _ = run(capsys, "schema")

    assert code == 0
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"rules": [{"name": "a", "then": "defer"}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"rules": [{"name": "a", "then": "later"}]}, schema)


@pytest.mark.parametrize("words", [["check"], ["serve", "--listen", "127.0.0.1:0"]])
def test_a_bad_rule_file_is_no_start_and_no_clean_check(tmp_path, words):
    (tmp_path / "policies.yaml").write_text("rules:\n  - {name: a, then: later}\n  - {nam: b}\n")
    config = tmp_path / "offramp.yaml"
    config.write_text(f"policies: policies.yaml\nstore: sqlite://{tmp_path}/x.db\n")

    # In a process of its own: a start sets up logging for the whole of it.
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *words, "--config", str(config)],
        check=False,
        capture_output=True,
        text=True,
    )
    err = done.stderr

    assert done.returncode == 3
    assert f"{tmp_path}/policies.yaml:2:21: " in err
    assert f"{tmp_path}/policies.yaml:3:6: " in err
    assert not (tmp_path / "x.db").exists()


def test_a_check_tells_machines_where_the_rules_are_wrong(capsys, tmp_path):
    (tmp_path / "policies.yaml").write_text("rules:\n  - {name: a, then: later}\n")
    config = tmp_path / "offramp.yaml"
    config.write_text(f"policies: policies.yaml\nstore: sqlite://{tmp_path}/x.db\n")

    assert main(["check", "--json", "--config", str(config)]) == 3

    (complaint,) = json.loads(capsys.readouterr().out)["complaints"]
    assert complaint["place"] == f"{tmp_path}/policies.yaml:2:21"
    assert complaint["key"] == "policies"


@pytest.mark.parametrize("block", BLOCKS)
def test_the_examples_of_the_readme_hold_with_the_real_tables(capsys, tmp_path, block):
    file = tmp_path / "policies.yaml"
    file.write_text(block)

    code, out, _ = run(capsys, "test", file)

    assert (code, out.split(",")[1]) == (0, " 0 failed\n")

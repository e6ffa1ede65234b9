"""The benchmark of rules runs and measures what it says; how fast it is, is not judged here."""

import json

from policies.headers import NOTHING_ASKED
from policies.load import load_policies
from policies.policy import Policy
from tests.benchmarks import rules as benchmark


def loaded(written):
    return Policy(load_policies(json.dumps({"rules": written}), "rules").rules)


def test_the_rules_on_headers_are_asked_and_none_of_them_fits():
    headers = tuple((name.encode(), value.encode()) for name, value in benchmark.HEADERS.items())
    head = {"path": "/v1/chat/completions", "upstream": "openai"}
    policy = loaded(benchmark.head_rules())

    assert len(policy.rules) == benchmark.RULES
    assert policy.is_idle(NOTHING_ASKED, headers=headers, **head)
    assert not policy.is_idle(NOTHING_ASKED, headers=((b"X-Job", b"job-4-x"),), **head)


def test_the_rules_on_the_body_are_timed_with_the_body_they_look_at():
    assert len(loaded(benchmark.body_rules()).rules) == benchmark.RULES
    assert benchmark.body_rules_us(repeat=3) > 0


async def test_forwarding_is_measured_by_the_rules_that_each_process_has(capsys):
    await benchmark.main(calls=20, rounds=1)

    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "forwarding without rules",
        "with 200 rules on headers",
        "with 200 rules on the body",
        "200 rules on the body beyond the parse",
    ]
    assert all(float(line.split(":")[1].split()[0]) > 0 for line in lines)

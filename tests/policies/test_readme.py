"""The examples of the package's README do what it says."""

import re
from pathlib import Path

import pytest

import policies
from policies.cases import CALL, run_cases
from policies.grammar import OUTCOME, WHEN
from policies.load import load_policies

README = (Path(policies.__file__).parent / "README.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def keys(kind):
    properties = kind.schema["properties"]
    assert isinstance(properties, dict)
    return properties


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_loads_and_its_tests_pass(block):
    file = load_policies(block, "README.md")

    failed = {
        result.case.name: result.failures
        for result in run_cases(file.rules, file.cases)
        if not result.passed
    }

    assert len(file.rules) > 0
    assert file.cases
    assert not failed


def test_every_condition_and_outcome_is_explained_and_used():
    assert len(BLOCKS) >= 6
    for key in keys(WHEN):
        assert f"`{key}`" in README
    for key in ("interactive", "defer", "reject"):
        assert f"`{key}" in README
        assert key in str(OUTCOME.schema)


def test_everything_that_a_test_can_say_of_a_call_is_named():
    for key in keys(CALL):
        assert f"`{key}`" in README

"""Rules in service: loaded whole or not at all, and what is in force is always known."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from policies.model import Answer
from proxy.core.errors import ConfigError
from proxy.services.policies import BadPoliciesError, open_policies, read_policies
from proxy.telemetry import Metrics
from tests.helpers.pipes import named_pipe

GOOD = "rules: [{name: one, then: interactive}]\n"
BETTER = "rules: [{name: one, then: interactive}, {name: two, then: defer}]\n"
BAD = "rules:\n  - {name: one, then: later}\n  - {nam: two, then: defer}\n"


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "policies.yaml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def metrics():
    return Metrics(strict=True)


@pytest.fixture
def policies(file, metrics):
    return open_policies(file, default_answer=Answer.RAISE, metrics=metrics)


async def settle(policies):
    """Run passes until the file is seen, read and known; return how often rules changed."""
    return sum([await policies.run_once() for _ in range(4)])


def rules(policies):
    return len(policies.current().rules)


def state(policies, metrics):
    """The generation, the number of rules, and whether the file on disk is refused."""
    assert metrics.value("policies_generation") == policies.current().generation
    return (
        policies.current().generation,
        rules(policies),
        bool(metrics.value("policies_refused")),
    )


def test_the_rules_of_a_start_are_the_first_generation(policies, metrics):
    assert state(policies, metrics) == (1, 1, False)
    assert policies.current().default_answer is Answer.RAISE


def test_a_bad_file_is_refused_at_start_with_every_complaint_and_its_place(file, metrics):
    file.write_text(BAD)

    with pytest.raises(BadPoliciesError) as raised:
        open_policies(file, default_answer=Answer.JOB, metrics=metrics)

    first, *rest = raised.value.complaints
    assert first == f"{file}:2:23: 'later' is refused: allowed: interactive, defer"
    assert any(one.startswith(f"{file}:3:6: unknown key 'nam'") for one in rest)
    assert isinstance(raised.value, ConfigError)


@pytest.mark.parametrize("content", [b"\xff\xfe", None, b"rules:\n  - name: a: b\n"])
def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path, content):
    file = tmp_path / "policies.yaml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(BadPoliciesError, match=r"No such file|no UTF-8|in '- name: a: b'"):
        read_policies(file)


def test_a_byte_order_mark_is_no_part_of_the_rules(file):
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())

    assert len(read_policies(file).rules) == 1


async def test_a_changed_file_comes_into_force_as_a_whole(policies, file, metrics):
    before = policies.current()
    assert await settle(policies) == 0

    file.write_text(BETTER)

    assert await settle(policies) == 1
    assert state(policies, metrics) == (2, 2, False)
    assert metrics.value("policies_loaded") == 1
    assert policies.current().default_answer is Answer.RAISE
    # Whoever decides by the old ones at this moment still has them.
    assert (len(before.rules), before.generation) == (1, 1)


async def test_a_bad_file_keeps_the_rules_and_is_told_once(policies, file, metrics):
    await settle(policies)
    with capture_logs() as logs:
        file.write_text(BAD)
        assert await settle(policies) == 0
        os.utime(file, ns=(1, 1))
        await settle(policies)

    assert state(policies, metrics) == (1, 1, True)
    assert metrics.value("policies_kept") == 1
    (line,) = logs
    assert (line["event"], line["generation"], line["problems"]) == ("policies.kept", 1, 3)
    assert line["complaints"][0].endswith("'later' is refused: allowed: interactive, defer")


async def test_a_file_that_is_put_right_comes_into_force(policies, file, metrics):
    file.write_text(BAD)
    await settle(policies)
    file.write_text(BETTER)

    assert await settle(policies) == 1
    assert state(policies, metrics) == (2, 2, False)


async def test_a_file_that_is_put_back_ends_the_alarm_without_a_new_generation(
    policies, file, metrics
):
    file.write_text(BAD)
    await settle(policies)
    file.write_text(GOOD)

    assert await settle(policies) == 0
    assert state(policies, metrics) == (1, 1, False)


async def test_a_file_that_is_only_touched_is_no_news(policies, file, metrics):
    await settle(policies)
    with capture_logs() as logs:
        os.utime(file, ns=(5, 5))
        assert await settle(policies) == 0

    assert logs == []
    assert state(policies, metrics) == (1, 1, False)


async def test_a_change_that_keeps_time_and_size_is_seen_by_the_inode(policies, file, metrics):
    await settle(policies)
    known = file.stat()
    other = file.with_suffix(".new")
    other.write_text(GOOD.replace("one", "uno"))
    os.utime(other, ns=(known.st_atime_ns, known.st_mtime_ns))
    other.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (known.st_size, known.st_mtime_ns)

    assert await settle(policies) == 1


async def test_a_file_that_is_still_being_written_is_not_read(policies, file, metrics):
    await settle(policies)
    with file.open("w") as writing:
        for line in BETTER.splitlines(keepends=True) * 3:
            writing.write("# " + line)
            writing.flush()
            assert await policies.run_once() == 0
        writing.write(BETTER)

    assert await settle(policies) == 1
    assert state(policies, metrics) == (2, 2, False)
    assert metrics.value("policies_kept") == 0


async def test_two_changes_within_one_tick_of_the_clock_are_both_seen(policies, file, metrics):
    """The first is read at once, as asked for; the second looks like it to `stat`."""
    await settle(policies)
    file.write_text(GOOD.replace("one", "uno"))
    tick = file.stat()
    policies.ask()
    assert await policies.run_once() == 1

    file.write_text(GOOD.replace("one", "due"))
    os.utime(file, ns=(tick.st_atime_ns, tick.st_mtime_ns))

    assert await settle(policies) == 1
    assert policies.current().rules.compiled[0].rule.name == "due"


async def test_a_config_map_is_swapped_by_a_link_to_a_link(tmp_path, metrics):
    for name, text in (("..1", GOOD), ("..2", BETTER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policies.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    file = tmp_path / "policies.yaml"
    file.symlink_to("..data/policies.yaml")
    policies = open_policies(file, default_answer=Answer.JOB, metrics=metrics)
    await settle(policies)

    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").replace(tmp_path / "..data")

    assert await settle(policies) == 1
    assert rules(policies) == 2


async def test_a_file_that_is_gone_for_a_moment_is_no_news_and_for_longer_keeps_the_rules(
    policies, file, metrics
):
    await settle(policies)
    file.unlink()
    assert await policies.run_once() == 0
    file.write_text(GOOD)
    await settle(policies)
    assert metrics.value("policies_kept") == 0

    file.unlink()
    await settle(policies)

    assert state(policies, metrics) == (1, 1, True)
    assert metrics.value("policies_kept") == 1
    file.write_text(BETTER)
    assert await settle(policies) == 1


async def test_who_asks_is_answered_at_once_and_always(policies, file):
    with capture_logs() as logs:
        policies.ask()
        assert await policies.run_once() == 0
        file.write_text(BETTER)
        policies.ask()
        assert await policies.run_once() == 1
        file.write_text(BAD)
        for _ in range(2):
            policies.ask()
            assert await policies.run_once() == 0

    events = [line["event"] for line in logs]
    assert events == ["policies.unchanged", "policies.loaded", *["policies.kept"] * 2]
    assert logs[1]["generation"] == 2


async def test_a_file_that_never_ends_is_refused(policies, metrics, file):
    file.unlink()
    file.symlink_to("/dev/zero")

    assert await settle(policies) == 0
    assert state(policies, metrics) == (1, 1, True)


def test_without_a_rule_file_the_library_that_reads_one_is_not_imported():
    code = "import proxy.app, sys; assert not [m for m in sys.modules if 'ruamel' in m]"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path):
    with (
        named_pipe(tmp_path / "rules.yaml") as file,
        pytest.raises(BadPoliciesError, match="it is a pipe"),
    ):
        read_policies(file)


def test_a_pipe_that_is_open_already_is_read():
    read, write = os.pipe()
    with os.fdopen(write, "w") as writer:
        writer.write(GOOD)

    try:
        assert len(read_policies(Path(f"/dev/fd/{read}")).rules) == 1
    finally:
        os.close(read)


async def test_a_pipe_in_place_of_the_file_keeps_the_rules_and_nobody_waiting(
    file, policies, metrics
):
    file.unlink()
    os.mkfifo(file)

    try:
        async with asyncio.timeout(30):
            await settle(policies)
    finally:
        # Whoever waits to read from it is let go.
        os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))

    assert state(policies, metrics) == (1, 1, True)

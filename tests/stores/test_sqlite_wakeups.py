"""Processes that share the file hear of each other's jobs at once, or poll."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from proxy.core.ids import JobId
from proxy.stores.sqlite.wakeups import MAX_NAME_BYTES, SqliteWakeups
from tests.helpers.factories import IDS
from tests.helpers.raw_upstream import wait_until

LISTENER = """
import asyncio, sys
from pathlib import Path
from proxy.stores.sqlite.wakeups import SqliteWakeups

async def main():
    heard = asyncio.Event()
    wakeups = SqliteWakeups(Path(sys.argv[1]))
    wakeups.subscribe(lambda ids: (print(*ids, flush=True), heard.set()))
    print("listening", flush=True)
    await heard.wait()
    wakeups.close()

asyncio.run(main())
"""


def listener(path: Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", LISTENER, str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


async def test_another_process_hears_what_is_published(path):
    ids = [IDS.job(), IDS.job()]
    with listener(path) as process:
        publisher = SqliteWakeups(path)
        publisher.publish(ids)
        publisher.close()

        assert process.stdout is not None
        assert process.stdout.readline().split() == ids


async def test_what_a_killed_process_left_behind_is_cleared_away(path):
    with listener(path) as process:
        os.kill(process.pid, signal.SIGKILL)
    folder = path.with_name(f"{path.name}.wake")
    assert len(list(folder.iterdir())) == 1

    publisher = SqliteWakeups(path)
    publisher.publish([IDS.job()])
    publisher.close()

    assert list(folder.iterdir()) == []


def test_without_a_file_to_spare_nothing_is_published_and_nothing_breaks(path):
    # In a process of its own, since its limit is.
    script = (
        "import os, resource as r, sys; from pathlib import Path;"
        "from proxy.core.ids import JobId; from proxy.stores.sqlite.wakeups import SqliteWakeups;"
        "wakeups = SqliteWakeups(Path(sys.argv[1]));"
        "r.setrlimit(r.RLIMIT_NOFILE, (3, 3));"
        "wakeups.publish([JobId('job')]); wakeups.subscribe(print); wakeups.close(); print('fine')"
    )

    words = [sys.executable, "-c", script, path]
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)

    assert ended.stdout == "fine\n"


async def test_a_long_list_comes_in_several_messages_and_whole(path):
    ids = [IDS.job() for _ in range(1_200)]
    heard: list[JobId] = []
    here, there = SqliteWakeups(path), SqliteWakeups(path)
    there.subscribe(heard.extend)

    here.publish(ids)
    await wait_until(lambda: len(heard) == len(ids))

    assert heard == ids
    there.close()
    here.close()
    assert not path.with_name(f"{path.name}.wake").exists()


async def test_a_path_too_long_for_a_socket_means_polling_and_no_error(tmp_path):
    wakeups = SqliteWakeups(tmp_path / ("x" * MAX_NAME_BYTES) / "offramp.db")
    wakeups.subscribe(lambda _: None)

    wakeups.publish([IDS.job()])

    wakeups.close()


async def test_a_folder_that_cannot_be_made_means_polling_and_no_error(path):
    path.with_name(f"{path.name}.wake").write_text("in the way")
    wakeups = SqliteWakeups(path)
    wakeups.subscribe(lambda _: None)

    wakeups.publish([IDS.job()])

    wakeups.close()

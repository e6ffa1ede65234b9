"""Runs are found again, used by one process at a time, and removed when they are old."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from proxy.app import SystemClock
from proxy.embedded.folder import FolderError, Folders

CLOCK = SystemClock()
WEEK = timedelta(days=7)


@pytest.fixture
def folders(tmp_path):
    return Folders("runs", {"XDG_STATE_HOME": str(tmp_path)})


def test_a_folder_lies_in_the_state_directory_and_is_the_users_alone(folders, tmp_path):
    folder = folders.new("a")

    assert folder.path == tmp_path / "offramp" / "runs" / "a"
    assert folder.path.stat().st_mode & 0o077 == 0
    assert {folder.store.parent, folder.log.parent} == {folder.path}


def test_a_run_is_found_by_its_name_and_the_last_used_by_that_word(folders):
    first, second = folders.new("first"), folders.new("second")
    os.utime(first.path / "lock", (CLOCK.now().timestamp() + 600,) * 2)

    assert folders.find("second").path == second.path
    assert folders.find("last").path == first.path
    assert folders.get_or_new("second").path == second.path


def test_a_run_that_is_set_aside_is_never_the_last_and_the_first_to_go(folders):
    first, second = folders.new("first"), folders.new("second")

    second.set_aside()

    assert folders.find("last").path == first.path
    assert folders.prune(now=CLOCK.now(), keep=WEEK) == 1
    assert not second.path.exists()


def test_a_folder_that_cannot_be_made_is_named_with_what_to_do(tmp_path):
    (tmp_path / "offramp").write_text("a file")

    with pytest.raises(FolderError, match=r"offramp/runs/a: Not a directory") as raised:
        Folders("runs", {"XDG_STATE_HOME": str(tmp_path)}).new("a")

    assert "XDG_STATE_HOME" in str(raised.value.hint)


@pytest.mark.parametrize("name", ["nope", "last", "../first", ""])
def test_a_run_that_is_not_there_is_told_with_those_that_are(folders, name):
    with pytest.raises(FolderError) as raised:
        folders.find(name)
    assert "no runs yet" in str(raised.value.hint)

    if name != "last":
        folders.new("first")
        with pytest.raises(FolderError) as raised:
            folders.find(name)
        assert "first" in str(raised.value.hint)


def test_one_process_uses_a_run_at_a_time(folders):
    folder = folders.new("a")

    with folder.locked(), pytest.raises(FolderError, match="still going on"), folder.locked():
        pass
    with folder.locked():
        pass


def test_what_is_old_is_removed_and_what_is_in_use_is_not(folders):
    old, used, young = (folders.new(name) for name in ("old", "used", "young"))
    (old.path / "offramp.db").write_text("x")
    now = CLOCK.now()
    later = now + WEEK + timedelta(hours=1)
    with used.locked():
        assert folders.prune(now=now + timedelta(hours=1), keep=WEEK) == 0
        with young.locked():
            assert folders.prune(now=later, keep=WEEK) == 1

    assert not old.path.exists()
    assert used.path.exists()
    assert young.path.exists()


def test_without_a_state_directory_nothing_is_pruned(tmp_path):
    nowhere = Folders("runs", {"XDG_STATE_HOME": str(tmp_path / "absent")})

    assert nowhere.prune(now=CLOCK.now(), keep=WEEK) == 0
    assert not Path(tmp_path / "absent").exists()

"""The file of recorded facts: bounded, private, and whole lines only."""

import stat

import pytest

from proxy.core.errors import StoreUnavailableError
from proxy.stores.facts_file import FactsFile

LINE = b'{"n": "%s"}' % (b"x" * 90)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "facts.jsonl"


def test_lines_are_appended_to_what_is_there(path):
    file = FactsFile(path, max_bytes=1 << 20)

    file.append([b"1", b"2"])
    FactsFile(path, max_bytes=1 << 20).append([b"3"])

    assert path.read_bytes() == b"1\n2\n3\n"


def test_only_the_owner_can_read_it(path):
    FactsFile(path, max_bytes=1000).append([b"1"])

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_both_files_together_never_exceed_the_bound_and_the_newest_are_kept(path):
    file = FactsFile(path, max_bytes=2_000)
    written = [LINE + b"%d" % n for n in range(100)]

    for start in range(0, 100, 7):
        file.append(written[start : start + 7])
        sizes = [each.stat().st_size for each in path.parent.iterdir()]
        assert sum(sizes) <= 2_000

    kept = (path.with_name("facts.jsonl.1").read_bytes() + path.read_bytes()).splitlines()
    assert kept == written[-len(kept) :]
    assert len(kept) >= 9
    assert len(list(path.parent.iterdir())) == 2


def test_one_append_of_more_than_the_bound_keeps_the_newest(path):
    FactsFile(path, max_bytes=1_000).append([LINE] * 50 + [b"last"])

    assert path.read_bytes().endswith(b"last\n")
    assert sum(each.stat().st_size for each in path.parent.iterdir()) <= 1_000


def test_a_line_that_would_never_fit_is_left_out(path):
    FactsFile(path, max_bytes=1_000).append([b"x" * 600, b"1"])

    assert path.read_bytes() == b"1\n"


def test_a_file_that_was_moved_away_is_begun_anew(path):
    file = FactsFile(path, max_bytes=1_000)
    file.append([b"1"])
    path.rename(path.with_name("taken"))

    file.append([b"2"])

    assert path.read_bytes() == b"2\n"


def test_what_the_file_system_refuses_is_said_with_the_path(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StoreUnavailableError, match=r"facts\.jsonl"):
        FactsFile(tmp_path / "file" / "facts.jsonl", max_bytes=1_000).append([b"1"])

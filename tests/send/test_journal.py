"""What was sent is found again, whatever ended the writing of it."""

import pytest

from proxy.send.journal import REFUSED, Journal
from tests.helpers.factories import IDS

DIGEST = "0123456789abcdef"


def test_records_are_read_by_line_from_any_place(tmp_path):
    jobs = [IDS.job() for _ in range(5)]
    with Journal(tmp_path / "journal") as journal:
        journal.append((job, DIGEST) for job in jobs[:3])
        journal.append((job, DIGEST) for job in [*jobs[3:], REFUSED])

        assert journal.count == 6
        assert journal.read(2, 2) == [(jobs[1], DIGEST), (jobs[2], DIGEST)]
        assert journal.read(5, 100) == [(jobs[4], DIGEST), (REFUSED, DIGEST)]


def test_a_torn_record_is_taken_back(tmp_path):
    path = tmp_path / "journal"
    first, second = IDS.job(), IDS.job()
    with Journal(path) as journal:
        journal.append([(first, DIGEST), (second, DIGEST)])
    path.write_bytes(path.read_bytes()[:-7])

    with Journal(path) as journal:
        assert journal.count == 1
        journal.append([(second, DIGEST)])
        assert journal.read(1, 9) == [(first, DIGEST), (second, DIGEST)]


def test_another_job_can_stand_for_a_line(tmp_path):
    first, second, other = IDS.job(), IDS.job(), IDS.job()
    with Journal(tmp_path / "journal") as journal:
        journal.append([(first, DIGEST), (second, DIGEST)])
        journal.replace(2, other, DIGEST)

        assert journal.read(1, 2) == [(first, DIGEST), (other, DIGEST)]
        assert journal.count == 2


def test_what_a_power_cut_left_without_content_is_taken_back(tmp_path):
    path = tmp_path / "journal"
    first = IDS.job()
    with Journal(path) as journal:
        journal.append([(first, DIGEST)])
    with path.open("ab") as file:
        file.write(bytes(120))

    with Journal(path) as journal:
        assert journal.count == 1
        assert journal.read(1, 9) == [(first, DIGEST)]


@pytest.mark.parametrize(
    "damage",
    [bytes(50), b"\xff" * 50, b"x" * 50, b" " * 49 + b"\n"],
    ids=["zeros", "no text", "letters", "blanks"],
)
@pytest.mark.parametrize("shift", [0, -1, -20])
def test_what_follows_a_damaged_record_is_taken_back_with_it(tmp_path, damage, shift):
    path = tmp_path / "journal"
    jobs = [IDS.job() for _ in range(5)]
    with Journal(path) as journal:
        journal.append((job, DIGEST) for job in jobs)
    content = path.read_bytes()
    at = len(content) // 5 * 2
    path.write_bytes(content[: at + shift] + damage + content[at + shift + len(damage) :])

    with Journal(path) as journal:
        assert journal.count == (2 if shift == 0 else 1)
        assert journal.read(1, 9) == [(job, DIGEST) for job in jobs[: journal.count]]

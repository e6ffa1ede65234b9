"""A file that takes no more is named, and nothing of it is taken for written."""

import os
import resource
import signal
from contextlib import contextmanager

import pytest

from proxy.send.errors import SendError
from proxy.send.files import sync, write_at
from proxy.send.journal import Journal
from proxy.send.output import Output
from tests.helpers.factories import IDS

DIGEST = "0123456789abcdef"


@contextmanager
def full_disk():
    """Let files of this process become no larger than 100 bytes while the block runs.

    No longer: what pytest says may go to a file as well.
    """
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "journal") as opened:
        yield opened


def test_all_is_written_where_it_belongs(tmp_path):
    with (tmp_path / "file").open("wb+") as file:
        write_at(file.fileno(), b"abcdef", 0, path=tmp_path / "file")
        write_at(file.fileno(), b"xy", 2, path=tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == b"abxyef"


def test_a_file_that_takes_a_part_has_taken_nothing(tmp_path, journal):
    records = [(IDS.job(), DIGEST) for _ in range(3)]

    with full_disk(), pytest.raises(SendError, match=r"journal cannot be written: File too large"):
        journal.append(records)

    assert journal.count == 0
    with Journal(tmp_path / "journal") as again:
        assert again.count == 2


def test_an_output_that_takes_a_part_is_gone_on_with(tmp_path):
    path = tmp_path / "answers"
    with Output(path) as output:
        with full_disk(), pytest.raises(SendError, match="answers cannot be written"):
            output.append([b"x" * 59 + b"\n"] * 2)
        assert output.count == 0

    with Output(path) as output:
        assert (output.count, len(output.tail)) == (1, 40)


def test_what_cannot_be_made_durable_is_named(tmp_path):
    reader, writer = os.pipe()
    try:
        with pytest.raises(SendError, match="cannot be written"):
            sync(writer, path=tmp_path)
    finally:
        os.close(reader)
        os.close(writer)

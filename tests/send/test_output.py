"""Answers are whole lines, byte for byte as they came, in the order of the calls."""

import json

import pytest

from proxy.send.lines import Line
from proxy.send.output import Output, answer_line

LINE = Line(3, "/v1/x", b"{}", "a", "0" * 16)


def test_an_answer_is_kept_byte_for_byte():
    answer = b'{"id": "job_1", "response": {"body": {"x": 1.0E-5, "y":[ ]}}}\n'

    written = answer_line(LINE, answer)

    assert written == b'{"custom_id": "a", "line": 3, ' + answer[1:]
    assert json.loads(written)["line"] == 3


@pytest.mark.parametrize(
    ("before", "count", "kept"),
    [("", 0, ""), ("a\n", 1, "a\n"), ("a\nb\nhalf", 2, "a\nb\n"), ("half", 0, "")],
)
def test_a_torn_line_is_taken_back(tmp_path, before, count, kept):
    path = tmp_path / "answers"
    path.write_text(before)

    with Output(path) as output:
        assert output.count == count
        output.append([b"next\n"])

    assert path.read_text() == f"{kept}next\n"


def test_lines_are_counted_in_files_of_any_size(tmp_path):
    path = tmp_path / "answers"
    path.write_bytes((b"x" * 700_000 + b"\n") * 4 + b"y" * 2_000_000)

    with Output(path) as output:
        assert output.count == 4

    assert path.stat().st_size == 4 * 700_001

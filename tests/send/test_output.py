"""Answers are whole lines, byte for byte as they came, in the order of the calls."""

import json
from pathlib import Path

import pytest

from proxy.send.errors import SendError
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
        assert output.tail == before.encode()[len(kept) :]
        output.take_back_tail()
        output.append([b"next\n"])

    assert path.read_text() == f"{kept}next\n"


def test_lines_are_counted_in_files_of_any_size(tmp_path):
    path = tmp_path / "answers"
    path.write_bytes((b"x" * 700_000 + b"\n") * 4 + b"y" * 2_000_000)

    with Output(path) as output:
        assert output.count == 4
        assert [len(answer) for answer in output.answers(after=2)] == [700_001] * 2
        output.take_back_tail()

    assert path.stat().st_size == 4 * 700_001


def test_an_output_is_held_by_one_at_a_time(tmp_path):
    path = tmp_path / "answers"
    with Output(path), pytest.raises(SendError, match="being written by another process"):
        Output(path)

    with Output(path) as output:
        assert output.is_empty


@pytest.mark.parametrize(
    ("path", "problem"),
    [("/dev/full", "is no file"), ("/nowhere/answers", "No such file or directory")],
)
def test_what_no_answers_can_be_kept_in_is_named(path, problem):
    with pytest.raises(SendError, match=f"{path}.*{problem}"):
        Output(Path(path))


def test_answers_that_are_errors_are_counted_whatever_they_hold(tmp_path):
    responses = [
        {"status_code": 200, "body": {"status_code": 500}},
        {"status_code": 400, "body": None},
        {"status_code": None},
        None,
    ]
    lines = [json.dumps({"custom_id": '"status_code": 500', "response": one}) for one in responses]
    (tmp_path / "answers").write_text("\n".join([*lines, "[]", "no answer", ""]))

    with Output(tmp_path / "answers") as output:
        assert output.errors() == 3

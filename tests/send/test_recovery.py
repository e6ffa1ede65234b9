"""The output of a send is told from any other file, and makes up for a journal that lost some."""

import json

import pytest

from proxy.send.errors import SendError
from proxy.send.journal import REFUSED, Journal
from proxy.send.lines import CHAT, read_lines
from proxy.send.output import Output, answer_line
from proxy.send.recovery import recover
from tests.helpers.factories import IDS

COUNT = 5


class Left:
    """What a start left behind that sent all lines and answered all but the last."""

    def __init__(self, folder):
        self.file, self.answers, self.journal = (
            folder / name for name in ("calls", "answers", "journal")
        )
        calls = [{"custom_id": f"c{n}", "body": {"n": n}} for n in range(COUNT)]
        self.file.write_text("".join(json.dumps(call) + "\n" for call in calls))
        self.lines = list(read_lines(self.file, endpoint=CHAT))
        self.jobs = [*(str(IDS.job()) for _ in range(COUNT - 2)), REFUSED, str(IDS.job())]
        self.note(COUNT)
        self.answers.write_bytes(b"".join(map(self.answer, range(COUNT - 1))))

    def note(self, count):
        self.journal.unlink(missing_ok=True)
        with Journal(self.journal) as journal:
            journal.append(
                (job, line.digest)
                for job, line in list(zip(self.jobs, self.lines, strict=True))[:count]
            )

    def answer(self, index):
        job = self.jobs[index]
        answer = {"id": None if job == REFUSED else job, "status": "completed"}
        return answer_line(self.lines[index], json.dumps(answer).encode())

    def recover(self):
        with Journal(self.journal) as journal, Output(self.answers) as output:
            recover(self.file, endpoint=CHAT, journal=journal, output=output)
            return journal.read(1, 99), output.count


@pytest.fixture
def left(tmp_path):
    return Left(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 20, 45, 70])
def test_a_line_of_ours_that_was_torn_is_taken_back(left, length):
    before = left.answers.read_bytes()
    left.answers.write_bytes(before + left.answer(COUNT - 1)[:length])

    assert left.recover()[1] == COUNT - 1
    assert left.answers.read_bytes() == before


@pytest.mark.parametrize("before", [0, 2, COUNT - 1])
@pytest.mark.parametrize("tail", [b"my notes", b'{"custom_id": "c', b'{"custom_id": "other", "'])
def test_a_torn_line_of_somebody_else_stays(left, before, tail):
    whole = b"".join(map(left.answer, range(before)))
    # A beginning that every line has in common is nobody's.
    is_ours = left.answer(before).startswith(tail)
    left.answers.write_bytes(whole + tail)

    if is_ours:
        left.recover()
    else:
        with pytest.raises(SendError, match="holds something else"):
            left.recover()

    assert left.answers.read_bytes() == (whole if is_ours else whole + tail)


def _of_another_job(left):
    left.jobs[1] = str(IDS.job())
    return left.answer(0) + left.answer(1)


def _of_another_call(left):
    return left.answer(0) + left.answer(1).replace(b'"c1"', b'"d1"')


def _not_in_order(left):
    return left.answer(1) + left.answer(0)


@pytest.mark.parametrize(
    "content",
    [
        _of_another_job,
        _of_another_call,
        _not_in_order,
        lambda _left: b"notes\n",
        lambda left: left.answers.read_bytes() + left.answer(COUNT - 1) + b"notes\n",
    ],
)
def test_answers_of_another_send_are_left_alone(left, content):
    foreign = content(left)
    left.answers.write_bytes(foreign)

    with pytest.raises(SendError, match="holds something else") as raised:
        left.recover()

    assert "move it elsewhere" in str(raised.value.hint)
    assert left.answers.read_bytes() == foreign


def test_what_the_journal_has_lost_is_noted_anew_from_the_answers(left):
    left.note(2)

    records, count = left.recover()

    assert count == COUNT - 1
    assert records == [
        (job, line.digest) for job, line in zip(left.jobs[:-1], left.lines[:-1], strict=True)
    ]


def test_a_send_that_sent_nothing_has_no_answers(left):
    left.note(0)

    with pytest.raises(SendError, match="holds something else"):
        left.recover()


def test_an_output_that_is_gone_is_written_anew(left):
    left.answers.unlink()

    assert left.recover()[1] == 0

"""What an answer teaches of the calls that are like it; more of it shows in which are made then."""

from datetime import timedelta

import pytest

from proxy.core.lanes import Lane
from proxy.core.outcomes import LONGEST_BACKOFF, Answer
from proxy.ports.jobs import Result
from proxy.services.direct.call import CallAnswer
from proxy.services.direct.lessons import BUSY, Lessons
from tests.helpers.factories import T0, make_job, make_key
from tests.helpers.fleet import Fleet

JOB = make_job(lane=Lane.INTERACTIVE)
MOMENT = timedelta(microseconds=1)


@pytest.fixture
def lessons() -> Lessons:
    instance = Fleet().instances[0]
    return Lessons(instance.ground, access=instance.access, outlook=instance.outlook)


def learn(lessons: Lessons, status: int, retry_after: timedelta | None = None) -> None:
    answer = CallAnswer(
        Result(status_code=status, body=b"{}"), Answer(status=status, content={}), retry_after
    )
    lessons.note_answer(JOB, answer, took=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (None, BUSY.first),
        (timedelta(0), BUSY.first),
        (timedelta(seconds=7), timedelta(seconds=7)),
        (timedelta(hours=3), LONGEST_BACKOFF),
    ],
)
def test_calls_like_a_refused_one_wait_for_as_long_as_was_asked_within_reason(
    lessons: Lessons, asked: timedelta | None, kept: timedelta
) -> None:
    learn(lessons, 429, asked)
    # Of another call that was under way; its answer names no pause.
    learn(lessons, 429)

    assert not lessons.may_call(JOB.key, T0 + kept - MOMENT)
    assert lessons.may_call(JOB.key, T0 + kept)
    assert lessons.may_call(make_key(lane=Lane.INTERACTIVE, model="another"), T0)


def test_an_answer_ends_the_pause(lessons: Lessons) -> None:
    learn(lessons, 429)
    assert not lessons.may_call(JOB.key, T0)

    learn(lessons, 200)

    assert lessons.may_call(JOB.key, T0)

"""The words of the job object, as those who read them know them."""

from proxy.core.job import JobState
from proxy.core.statuses import ENDED, PENDING, STATUSES
from proxy.web.answering.job_object import STATUS_WORDS


def test_a_status_is_pending_exactly_while_the_state_is_not_terminal():
    pending = {STATUS_WORDS[state] for state in JobState if not state.is_terminal}
    ended = {STATUS_WORDS[state] for state in JobState if state.is_terminal}

    assert pending == set(PENDING)
    assert ended == set(ENDED)


def test_each_status_is_listed_once():
    assert len(STATUSES) == len(set(STATUSES))

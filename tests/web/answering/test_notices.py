"""What a webhook is sent of a job's end."""

import json
from datetime import timedelta

import pytest

from proxy.core.job import CancelRequested, DeadlinePassed, Failed, Job, Outcome, Succeeded, advance
from proxy.web.answering.job_object import job_object
from proxy.web.answering.notices import notice_payload
from tests.contract.steps import OK
from tests.helpers.factories import T0, make_job

LATER = T0 + timedelta(minutes=7)


def told(job: Job) -> dict[str, object]:
    content: dict[str, object] = json.loads(notice_payload(job))
    return content


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Succeeded(0, LATER, OK), "job.completed"),
        (Failed(0, LATER, Outcome(400)), "job.failed"),
        (DeadlinePassed(LATER), "job.expired"),
        (CancelRequested(LATER), "job.cancelled"),
    ],
)
def test_the_type_says_how_the_job_ended_and_the_data_is_its_object(event, kind):
    job = advance(make_job(webhook="done"), event)

    assert told(job) == {
        "type": kind,
        "timestamp": "2026-11-23T12:07:00Z",
        "data": job_object(job, now=LATER + timedelta(days=2)),
    }


def test_the_same_job_is_told_in_the_same_bytes():
    job = advance(make_job(webhook="done"), Succeeded(0, LATER, OK))

    assert notice_payload(job) == notice_payload(job)


def test_a_job_that_goes_on_has_nothing_to_tell():
    with pytest.raises(AssertionError, match="not ended"):
        notice_payload(make_job(webhook="done"))

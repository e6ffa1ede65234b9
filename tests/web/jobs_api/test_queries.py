"""What may be asked of the jobs API, read strictly."""

import pytest

from proxy.core.errors import CallerError
from proxy.core.job import JobState
from proxy.ports.jobs import JobFilter
from proxy.web.answering.job_object import STATUS_WORDS, job_object
from proxy.web.jobs_api.queries import (
    DEFAULT_LIMIT,
    MAX_IDS,
    MAX_WAIT_S,
    BulkQuery,
    Listing,
    read_bulk,
    read_listing,
    read_wait,
)
from tests.helpers.factories import IDS, T0, make_job


@pytest.mark.parametrize("state", JobState)
def test_the_words_for_a_status_are_those_of_the_job_object(state):
    shown = job_object(make_job(state=state), now=T0)

    assert STATUS_WORDS[state] == shown["status"]


def test_a_listing_without_a_query_is_the_newest_of_all():
    assert read_listing("/v1/jobs") == Listing(JobFilter(), None, DEFAULT_LIMIT)


def test_a_listing_reads_all_that_it_knows():
    job_id = IDS.job()

    listing = read_listing(f"/v1/jobs?status=failed,expired&tag=a=b=c&after={job_id}&limit=7&key=k")

    states = frozenset({JobState.FAILED, JobState.EXPIRED})
    assert listing == Listing(JobFilter(states=states, tag=("a", "b=c")), job_id, 7)


@pytest.mark.parametrize("limit", ["0", "1001", "-1", "1.5", "", "\u0661", "9" * 5000])
def test_a_limit_out_of_bounds_is_refused(limit):
    with pytest.raises(CallerError) as refusal:
        read_listing(f"/v1/jobs?limit={limit}")

    assert refusal.value.param == "limit"


def test_a_wait_is_cut_to_what_every_client_can_bear():
    assert read_wait("/x?wait=7") == 7
    assert read_wait("/x") == 0
    assert read_wait("/x?wait=999999") == MAX_WAIT_S


def test_ids_are_asked_for_once_each_in_their_order():
    with pytest.raises(CallerError, match="leave it out"):
        # Else nothing would be left of the condition, and everything be sent.
        read_bulk(b'{"tag": null}')
    assert read_bulk(b'{"ids": ["b", "a", "b"]}') == BulkQuery(("b", "a"), JobFilter())


def test_a_name_with_half_a_surrogate_pair_is_refused_in_words_that_go_anywhere():
    with pytest.raises(CallerError, match="�ids") as refusal:
        read_bulk(b'{"\\ud800ids": ["a"]}')

    assert str(refusal.value).encode()


def test_a_tag_and_a_status_must_both_hold():
    query = read_bulk(b'{"tag": "a=b", "status": ["completed"]}')

    assert query.ids is None
    assert query.where == JobFilter(states=frozenset({JobState.COMPLETED}), tag=("a", "b"))


def test_a_body_that_is_no_json_is_refused_with_the_place():
    with pytest.raises(CallerError, match=r"JSON: .* line 1 column 8"):
        read_bulk(b'{"ids":}')


def test_a_parameter_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(CallerError, match=r"`foo` .* the query may hold wait$"):
        read_wait("/x?foo=1")


def test_too_many_ids_are_refused():
    ids = ",".join(f'"{number}"' for number in range(MAX_IDS + 1))

    with pytest.raises(CallerError, match="1 to 10000"):
        read_bulk(f'{{"ids": [{ids}]}}'.encode())

"""The jobs API: exact results, long polls, listings, cancellation, and nobody else's jobs."""

import pytest

from proxy.core.dialects import Family
from proxy.core.errors import ProviderUnavailableError, StoreUnavailableError
from proxy.core.ids import InstanceId
from proxy.core.job import DeadlinePassed, Escalated, JobState, advance
from proxy.core.upstream import Upstream
from proxy.ports.jobs import JobWrite
from proxy.web.jobs_api.jobs import caller_family, is_job_path
from tests.helpers.factories import IDS
from tests.web.house import COMPLETION, KEY, open_house


async def test_the_job_object_says_how_it_stands_and_when_to_ask_again(house):
    job = await house.job()

    pending = await house.send("GET", f"/v1/jobs/{job.id}")
    await house.finish(job)
    ended = await house.send("GET", f"/v1/jobs/{job.id}")

    assert (pending.status, pending.json["status"]) == (200, "queued")
    assert int(pending.headers["Retry-After"]) > 0
    assert (ended.status, ended.json["status"]) == (200, "completed")
    assert "Retry-After" not in ended.headers
    assert ended.json["result"] == {"status_code": 200, "url": f"/v1/jobs/{job.id}/result"}
    assert ended.headers["X-Deferrable-Job"] == job.id


@pytest.mark.parametrize("place", ["", "/{}"])
async def test_a_job_tells_that_its_upstream_does_not_answer_and_no_words_of_that(house, place):
    job = await house.job()
    house.clock.advance(minutes=5)
    house.ground.troubles.note(
        "openai", ProviderUnavailableError("10.0.0.7 is down"), at=house.clock.now()
    )

    told = await house.send("GET", f"/v1/jobs{place.format(job.id)}")
    house.ground.troubles.are_over("openai")
    over = await house.send("GET", f"/v1/jobs{place.format(job.id)}")

    when = f"{house.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    assert (told.json if place else told.json["data"][0])["trouble"] == (
        f"upstream 'openai' did not answer when it was last asked, at {when}"
    )
    assert (over.json if place else over.json["data"][0])["trouble"] is None


async def test_a_job_tells_that_its_upstream_is_not_configured_any_more(house):
    job = await house.job()
    del house.upstreams["openai"]

    answer = await house.send("GET", f"/v1/jobs/{job.id}")

    assert answer.json["trouble"] == (
        "no upstream 'openai' is configured here: its jobs wait, each to its deadline"
    )


@pytest.mark.parametrize("place", ["", "/{}"])
async def test_a_job_tells_that_its_upstream_refuses_its_credential(house, place):
    job = await house.job()
    at = house.clock.now()
    await house.stores.credentials.pause(job.key.credential, at=at, status=401, body=None)
    await house.accounts.run_once()

    told = await house.send("GET", f"/v1/jobs{place.format(job.id)}")
    house.accounts.note_accepted(job.key.credential)
    over = await house.send("GET", f"/v1/jobs{place.format(job.id)}")

    assert (told.json if place else told.json["data"][0])["trouble"] == (
        f"upstream 'openai' refuses the credential of this job since {at:%Y-%m-%dT%H:%M:%SZ}:"
        " it waits until that is good again, to its deadline"
    )
    assert (over.json if place else over.json["data"][0])["trouble"] is None


@pytest.mark.parametrize("name", ["job_xyz", "nothing", "job_1K01M8FW0DKHBF0T5JA64NCY2AN"])
@pytest.mark.parametrize("key", [KEY, None])
async def test_an_id_that_is_none_is_told_from_one_that_nobody_has(house, name, key):
    for path in (f"/v1/jobs/{name}", f"/v1/jobs/{name}/result?wait=1"):
        answer = await house.send("GET", path, key=key)

        assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
        assert answer.json["detail"] == f"{name!r} is no job ID: mistyped, or cut off?"


async def test_a_result_is_the_providers_own_bytes_status_and_type(house):
    job = await house.job()
    pending = await house.send("GET", f"/v1/jobs/{job.id}/result")
    body = b'{ "error": {"message": "caf\xc3\xa9"} }\n'
    await house.finish(job, body, 429, content_type="application/json; x=1")

    result = await house.send("GET", f"/v1/jobs/{job.id}/result")

    assert (pending.status, pending.json["status"]) == (202, "queued")
    assert int(pending.headers["Retry-After"]) > 0
    assert (result.status, result.body) == (429, body)
    assert result.headers["Content-Type"] == "application/json; x=1"
    assert result.headers["X-Deferrable-Job"] == job.id


async def test_a_job_that_ended_without_an_answer_has_a_problem_for_a_result(house):
    job = await house.job(headers={"X-Deferrable-Deadline": "1h"})
    house.clock.advance(hours=2)
    expired = advance(job, DeadlinePassed(house.clock.now()))
    await house.stores.jobs.replace_many([JobWrite(expired)])

    result = await house.send("GET", f"/v1/jobs/{job.id}/result")

    assert result.status == 400
    assert result.headers["Content-Type"] == "application/problem+json"
    assert result.json["error"]["code"] == "deadline_passed"


@pytest.mark.parametrize("tail", ["", "/result"])
async def test_a_long_poll_returns_as_soon_as_the_job_ends(house, tail):
    job = await house.job()

    asking = house.tasks.create_task(house.send("GET", f"/v1/jobs/{job.id}{tail}?wait=60"))
    await house.held()
    await house.finish(job)
    reply = await asking

    assert reply.status == 200
    assert reply.body == COMPLETION if tail else reply.json["status"] == "completed"


async def test_a_long_poll_ends_with_its_time_and_with_the_instance(house):
    job = await house.job()

    asking = house.tasks.create_task(house.send("GET", f"/v1/jobs/{job.id}?wait=60"))
    await house.held()
    house.clock.advance(seconds=60)
    house.waiters.wake([job.id])
    assert (await asking).json["status"] == "queued"

    asking = house.tasks.create_task(house.send("GET", f"/v1/jobs/{job.id}/result?wait=60"))
    await house.held()
    house.holding.drain()
    assert (await asking).status == 202


async def test_long_polls_are_bounded_like_all_held_connections():
    async with open_house(max_held=0) as house:
        job = await house.job()

        assert (await house.send("GET", f"/v1/jobs/{job.id}?wait=5")).status == 429
        assert (await house.send("GET", f"/v1/jobs/{job.id}?wait=0")).status == 200
        assert (await house.send("GET", f"/v1/chat/completions/{job.id}")).status == 429


@pytest.mark.parametrize("query", ["wait=soon", "wait=-1", "wait=1e3", "wait=1&wait=2", "weit=1"])
async def test_a_query_that_cannot_be_read_is_named(house, query):
    job = await house.job()

    reply = await house.send("GET", f"/v1/jobs/{job.id}?{query}")

    assert reply.status == 400
    assert reply.json["error"]["param"] == query.partition("=")[0]


VERBS = [
    ("GET", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}?wait=1"),
    ("GET", "/v1/jobs/{id}/result"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/jobs/{id}"),
    ("DELETE", "/openai/v1/jobs/{id}"),
    ("GET", "/v1/chat/completions/{id}"),
    ("GET", "/openai/v1/responses/{id}"),
    ("POST", "/v1/responses/{id}/cancel"),
    ("GET", "/v1/jobs?after={id}"),
]


@pytest.mark.parametrize(("method", "path"), VERBS)
@pytest.mark.parametrize("key", ["sk-other", None])
async def test_somebody_elses_job_is_one_that_never_existed(house, method, path, key):
    job = await house.job()
    never = IDS.job()

    theirs = await house.send(method, path.format(id=job.id), key=key)
    nobodys = await house.send(method, path.format(id=never), key=key)

    assert theirs.status == nobodys.status in {401, 404}
    assert theirs.body.replace(job.id.encode(), b"ID") == nobodys.body.replace(
        never.encode(), b"ID"
    )
    assert {name for name in theirs.headers if name != "Date"} == set(nobodys.headers) - {"Date"}
    assert (await house.stores.jobs.get(job.id)).state is JobState.QUEUED


async def test_the_owner_is_recognised_by_any_header_that_carries_the_token(house):
    job = await house.job()

    for headers in (
        {"x-api-key": KEY},
        {"X-Goog-Api-Key": KEY},
        {"Authorization": f"bearer {KEY}"},
    ):
        reply = await house.send("GET", f"/v1/jobs/{job.id}", key=None, headers=headers)
        assert reply.status == 200
    assert (await house.send("GET", f"/v1/jobs/{job.id}?key={KEY}", key=None)).status == 200


async def test_a_listing_pages_through_the_owners_jobs_newest_first(house):
    jobs = []
    for _ in range(5):
        jobs.append(await house.job())
        house.clock.advance(seconds=1)
    await house.job(key="sk-other")
    newest_first = [job.id for job in reversed(jobs)]

    first = (await house.send("GET", "/v1/jobs?limit=3")).json
    rest = (await house.send("GET", f"/v1/jobs?limit=3&after={first['last_id']}")).json

    assert first["object"] == "list"
    assert [each["id"] for each in first["data"]] == newest_first[:3]
    assert (first["first_id"], first["has_more"]) == (newest_first[0], True)
    assert [each["id"] for each in rest["data"]] == newest_first[3:]
    assert rest["has_more"] is False


async def test_the_stock_sdk_pages_through_a_listing(house):
    for _ in range(3):
        await house.job()
        house.clock.advance(seconds=1)

    async with house.sdk() as client:
        page = await client.get("/jobs?limit=2", cast_to=object)

    assert len(page["data"]) == 2


async def test_a_listing_is_filtered_by_status_and_tag(house):
    queued = await house.job(headers={"X-Deferrable-Tags": "team=etl, run=1"})
    done = await house.finish(await house.job(headers={"X-Deferrable-Tags": "team=etl"}))
    calling = await house.job()
    await house._advance(calling, Escalated(InstanceId("instance-1")))

    async def listed(query):
        reply = await house.send("GET", f"/v1/jobs?{query}")
        return {each["id"] for each in reply.json["data"]}

    assert await listed("status=queued") == {queued.id}
    assert await listed("status=in_progress") == {calling.id}
    assert await listed("status=completed,queued") == {queued.id, done.id}
    assert await listed("tag=team%3Detl") == {queued.id, done.id}
    assert await listed("tag=run=1&status=queued") == {queued.id}
    assert await listed("tag=run=2") == set()


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=",
        "tag=team",
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=job_1",
        "x=1",
    ],
)
async def test_a_listing_that_cannot_be_read_is_refused_by_its_parameter(house, query):
    reply = await house.send("GET", f"/v1/jobs?{query}")

    assert reply.status == 400
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json["error"]["param"] == query.partition("=")[0]


async def test_without_a_credential_nothing_is_listed(house):
    assert (await house.send("GET", "/v1/jobs", key=None)).status == 401
    assert (await house.send("POST", "/v1/jobs/results", key=None, json={})).status == 401


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs/JOB", "DELETE, GET, HEAD"),
        ("POST", "/v1/jobs/JOB/result", "GET, HEAD"),
        ("GET", "/v1/jobs/JOB/cancel", "POST"),
        ("POST", "/v1/jobs", "GET, HEAD"),
        ("HEAD", "/v1/jobs/results", "POST"),
        ("POST", "/v1/jobs/openapi.json", "GET, HEAD"),
        ("HEAD", "/v1/chat/completions/JOB", "GET"),
        ("DELETE", "/v1/responses/JOB", "GET"),
    ],
)
async def test_a_method_that_does_not_exist_is_refused_with_those_that_do(
    house, method, path, allowed
):
    job = await house.job()

    reply = await house.send(method, path.replace("JOB", job.id))

    assert (reply.status, reply.headers["Allow"]) == (405, allowed)


async def test_a_method_that_does_not_exist_is_told_before_that_a_credential_is_missing(house):
    reply = await house.send("POST", "/v1/jobs/openapi.json", key=None)

    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")


async def test_who_asks_for_a_job_without_its_id_is_told_where_jobs_are_listed(house):
    reply = await house.send("GET", "/v1/jobs/")

    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
    assert "/v1/jobs lists jobs" in reply.json["detail"]


@pytest.mark.parametrize("path", ["", "/JOB", "/JOB/result", "/openapi.json"])
async def test_what_can_be_read_can_be_asked_after_without_its_body(house, path):
    job = await house.job()
    await house.finish(job)
    path = "/v1/jobs" + path.replace("JOB", job.id)

    read, asked = await house.send("GET", path), await house.send("HEAD", path)

    assert (asked.status, asked.body) == (200, b"")
    assert asked.headers["Content-Length"] == str(len(read.body))


async def test_a_cancelled_job_ends_once_and_stays_cancelled(house):
    job = await house.job()

    first = await house.send("POST", f"/v1/jobs/{job.id}/cancel")
    house.clock.advance(seconds=5)
    second = await house.send("POST", f"/v1/jobs/{job.id}/cancel")

    assert (first.status, first.json["status"]) == (200, "cancelled")
    assert second.json["finalized_at"] == first.json["finalized_at"]
    assert house.metrics.value("job_ended", state="cancelled", lane="batch") == 1


async def test_cancelling_wakes_who_waits(house):
    waiting = house.tasks.create_task(house.defer("wait"))
    await house.held()
    (job,) = await house.jobs()

    await house.send("POST", f"/v1/jobs/{job.id}/cancel")
    reply = await waiting

    assert reply.status == 400
    assert reply.json["error"]["code"] == "job_cancelled"


async def test_a_job_that_ended_cannot_be_cancelled_any_more(house):
    job = await house.finish(await house.job())

    reply = await house.send("POST", f"/v1/jobs/{job.id}/cancel")

    assert (reply.status, reply.json["status"]) == (200, "completed")
    assert (await house.send("GET", f"/v1/jobs/{job.id}/result")).body == COMPLETION


async def test_deleting_erases_prompt_result_and_job(house):
    pending, ended = await house.job(), await house.finish(await house.job())

    for job in (pending, ended):
        reply = await house.send("DELETE", f"/v1/jobs/{job.id}")
        assert reply.json == {"id": job.id, "object": "deferrable.job", "deleted": True}
        assert (await house.send("GET", f"/v1/jobs/{job.id}")).status == 404
        assert await house.stores.jobs.result(job.id) is None
    assert (await house.send("GET", "/v1/jobs")).json["data"] == []


async def test_a_store_that_is_away_is_said_to_be_away(house):
    job = await house.job()

    async def away(*args, **kwargs):
        raise StoreUnavailableError("away")

    house.stores.jobs.get = away
    reply = await house.send("GET", f"/v1/jobs/{job.id}")

    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize(
    ("target", "ours"),
    [
        ("/v1/jobs", True),
        ("/v1/jobs?limit=1", True),
        ("/v1/jobs/results", True),
        ("/v1/jobs/anything", True),
        ("/v1/jobsearch", False),
        ("/openai/v1/jobs", False),
        ("/v1/fine_tuning/jobs", False),
        ("/v1/files?after={}", False),
        ("/anything/{}", True),
        ("/anything/{}/else", True),
    ],
)
def test_what_is_ours_is_told_by_the_path_alone(target, ours):
    assert is_job_path(target.format(IDS.job())) is ours


def test_whose_errors_a_caller_reads_follows_from_prefix_and_headers():
    upstreams = {"anthropic": Upstream.parse("anthropic", "anthropic", "https://a.example")}

    def family(target, *names):
        return caller_family(target, tuple((name, b"x") for name in names), upstreams)

    assert family("/anthropic/v1/x") is Family.ANTHROPIC
    assert family("/v1/x", b"X-Api-Key") is Family.ANTHROPIC
    assert family("/v1/x", b"x-goog-api-key") is Family.GEMINI
    assert family("/v1/x", b"authorization") is Family.OPENAI

"""Many results as JSON lines: exact bodies, nobody else's, and never cut off unnoticed."""

import json

import pytest

from proxy.core.errors import StoreCorruptError, StoreUnavailableError
from proxy.core.job import Job
from proxy.ports.jobs import Result
from proxy.web.jobs_api.bulk import Bulk, result_line
from proxy.web.jobs_api.queries import read_bulk
from tests.helpers.factories import make_job
from tests.web.house import COMPLETION


async def test_many_results_come_as_lines_with_exact_bodies(house):
    done = await house.finish(await house.job())
    failed = await house.finish(await house.job(), b"<html>\n", 502)
    queued = await house.job()
    others = await house.job(key="sk-other")
    ids = [done.id, failed.id, queued.id, others.id, "nonsense", done.id]

    reply = await house.send("POST", "/v1/jobs/results", json={"ids": ids})

    lines = reply.body.splitlines()
    assert reply.headers["Content-Type"] == "application/jsonl"
    assert [json.loads(line)["id"] for line in lines] == ids[:5]
    first, second, third, fourth, fifth = map(json.loads, lines)
    assert first["response"]["body"] == json.loads(COMPLETION)
    assert COMPLETION.replace(b"\n", b"") in lines[0]
    assert (first["status"], first["response"]["status_code"]) == ("completed", 200)
    assert (second["response"]["status_code"], second["response"]["body"]) == (502, "<html>\n")
    assert (third["status"], third["response"], third["error"]) == ("queued", None, None)
    assert fourth["error"]["code"] == fifth["error"]["code"] == "job_not_found"


async def test_results_of_a_tag_come_whole_however_many_they_are(house):
    for number in range(105):
        await house.job(headers={"X-Deferrable-Tags": f"run=42,n={number}"})
    await house.job()

    reply = await house.send("POST", "/v1/jobs/results", json={"tag": "run=42"})
    none = await house.send("POST", "/v1/jobs/results", json={"status": ["failed", "expired"]})

    numbers = {json.loads(line)["tags"]["n"] for line in reply.body.splitlines()}
    assert numbers == {str(number) for number in range(105)}
    assert (none.status, none.body) == (200, b"")


async def test_a_stream_of_results_that_breaks_off_does_not_look_whole(house):
    for _ in range(100):
        await house.job(headers={"X-Deferrable-Tags": "run=42"})
    last = await house.job(headers={"X-Deferrable-Tags": "run=42"})
    # So large that it is sent before the next page is read.
    await house.finish(last, b'"%b"' % (b"x" * 300_000))
    list_jobs = house.stores.jobs.list_jobs

    async def once(owner, where, *, after, limit):
        if after is not None:
            raise StoreUnavailableError("away")
        return await list_jobs(owner, where, after=after, limit=limit)

    house.stores.jobs.list_jobs = once

    with pytest.raises(Exception, match=r"payload|reset|disconnected|closed"):
        await house.send("POST", "/v1/jobs/results", json={"tag": "run=42"})


async def test_a_result_that_cannot_be_read_keeps_none_of_the_others_back(house):
    jobs = [await house.finish(await house.job()) for _ in range(3)]
    result = house.stores.jobs.result

    async def altered(job_id):
        if job_id == jobs[1].id:
            raise StoreCorruptError("a sealed value was altered or moved")
        return await result(job_id)

    house.stores.jobs.result = altered
    reply = await house.send("POST", "/v1/jobs/results", json={"ids": [job.id for job in jobs]})

    first, second, third = map(json.loads, reply.body.splitlines())
    assert first["response"]["body"] == third["response"]["body"] == json.loads(COMPLETION)
    assert (second["status"], second["response"]) == ("completed", None)
    assert second["error"]["code"] == "store_corrupt"


async def test_a_job_that_cannot_be_read_keeps_none_of_the_others_results_back(house):
    jobs = [await house.finish(await house.job()) for _ in range(3)]
    house.stores.jobs.damaged.add(jobs[1].id)

    reply = await house.send("POST", "/v1/jobs/results", json={"ids": [job.id for job in jobs]})

    first, second, third = map(json.loads, reply.body.splitlines())
    assert first["response"]["body"] == third["response"]["body"] == json.loads(COMPLETION)
    assert (second["id"], second["status"]) == (jobs[1].id, None)
    assert second["error"]["code"] == "store_corrupt"


async def test_a_listed_job_that_cannot_be_read_keeps_none_of_the_others_results_back(house):
    tags = {"X-Deferrable-Tags": "run=42"}
    jobs = [await house.finish(await house.job(headers=tags)) for _ in range(3)]
    house.stores.jobs.damaged.add(jobs[1].id)

    reply = await house.send("POST", "/v1/jobs/results", json={"tag": "run=42"})

    lines = {line["id"]: line for line in map(json.loads, reply.body.splitlines())}
    assert lines.keys() == {job.id for job in jobs}
    damaged = lines.pop(jobs[1].id)
    assert (damaged["status"], damaged["error"]["code"]) == (None, "store_corrupt")
    assert {line["status"] for line in lines.values()} == {"completed"}


async def test_large_results_are_not_held_in_memory_together(house):
    size = 300_000
    jobs = [await house.finish(await house.job(), b'"%b"' % (b"x" * size)) for _ in range(5)]
    query = read_bulk(json.dumps({"ids": [job.id for job in jobs]}).encode())

    bulk = Bulk(house.ground)
    pieces = [piece async for piece in bulk._pieces([jobs[0].owner], query)]

    assert len(pieces) == 5
    assert sum(map(len, pieces)) > 5 * size


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"ids": []}',
        b'{"ids": [1]}',
        b'{"ids": "x"}',
        b'{"ids": ["a"], "tag": "a=b"}',
        b'{"tag": 7}',
        b'{"status": "done"}',
        b'{"limit": 3}',
        b"[" * 100_000,
    ],
)
async def test_a_request_for_results_that_cannot_be_read_is_refused(house, content):
    reply = await house.send("POST", "/v1/jobs/results", data=content)

    assert reply.status == 400
    assert reply.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"a": 1.10}', b'{"a": 1.10}'),
        (b'{\r\n"a":\n[]}\n', b'{"a":[]}'),
        (b'"\\ud83d"', b'"\\ud83d"'),
        (b"", b'""'),
        (b"caf\xe9", b'"caf\\ufffd"'),
        (b"[NaN]", b'"[NaN]"'),
        (b"[\0]\0", b'"[\\u0000]\\u0000"'),
        (b"[" * 100_000, b'"' + b"[" * 100_000 + b'"'),
    ],
)
def test_a_body_stands_in_its_line_as_it_came_or_as_a_string(body, shown):
    job: Job = make_job()

    line = result_line(job, Result(status_code=200, body=body, request_id="req_1"))

    assert b'"body": ' + shown + b"}" in line
    assert line.count(b"\n") == 1
    assert json.loads(line)["response"]["request_id"] == "req_1"

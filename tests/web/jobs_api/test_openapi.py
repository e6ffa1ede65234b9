"""The description of the jobs API: every answer is as it says, and nothing more is said."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema

from proxy.core.errors import StoreUnavailableError
from proxy.core.job import JobState
from proxy.web.jobs_api.openapi import openapi
from proxy.web.jobs_api.queries import read_listing
from tests.helpers.factories import IDS
from tests.web.house import KEY

DOCUMENT = json.loads(openapi())
DIALECT = "https://json-schema.org/draft/2020-12/schema"
JOB = "/v1/jobs/{id}"

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "3")
"""Of each operation; by hand, some hundred."""

PHASES = "fuzzing,stateful" if int(EXAMPLES) < 10 else "coverage,fuzzing,stateful"


class Book:
    """Holds answers to the description, and knows which it has seen."""

    def __init__(self, house):
        self._house = house
        self.seen = set()

    async def ask(self, method, template, *, query="", job_id=None, status=200, **options):
        path = template.replace("{id}", str(job_id)) + query
        reply = await self._house.send(method, path, **options)
        assert reply.status == status, reply.body
        operation = DOCUMENT["paths"][template][method.lower()]
        answers = operation["responses"]
        described = answers.get(str(status)) or answers["default"]
        media = reply.headers["Content-Type"].partition(";")[0]
        for kind, content in described.get("content", {}).items():
            assert kind in {media, "*/*"}
            for text in reply.body.splitlines() if media == "application/jsonl" else [reply.body]:
                check(json.loads(text), content["schema"])
        self.seen.add((operation["operationId"], str(status)))
        return reply


def check(value, schema):
    jsonschema.validate(value, {"$schema": DIALECT, "components": DOCUMENT["components"], **schema})


def test_the_description_is_one(house):
    check(DOCUMENT, {"type": "object", "required": ["openapi", "info", "paths"]})
    schemas = DOCUMENT["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    used = set(re.findall(r"#/components/schemas/(\w+)", openapi().decode()))
    assert used == set(schemas)
    names = [one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))


async def test_every_answer_is_as_the_description_says(house):
    book = Book(house)
    ask = book.ask

    await ask("GET", "/v1/jobs/openapi.json", key=None)
    await ask("GET", "/v1/jobs")
    tags = {"X-Deferrable-Tags": "team=etl"}
    jobs = [await house.job(headers=tags) for _ in range(4)]
    done, failed, queued, cancelled = (job.id for job in jobs)
    await house.finish(jobs[0])
    await house.finish(jobs[1], b'{"error": {"message": "no"}}', 404)
    await ask("POST", f"{JOB}/cancel", job_id=cancelled)
    page = await ask("GET", "/v1/jobs", query="?tag=team%3Detl&status=queued,failed&limit=1")
    await ask("GET", "/v1/jobs", query=f"?after={page.json['last_id']}")
    house.stores.jobs.damaged.add(queued)
    listed = await ask("GET", "/v1/jobs")
    assert [one["status"] for one in listed.json["data"]].count(None) == 1
    house.stores.jobs.damaged.clear()
    await ask("GET", "/v1/jobs", query="?limit=0", status=400)
    await ask("GET", "/v1/jobs", status=401, key=None)
    await ask("GET", "/v1/jobs", query=f"?after={IDS.job()}", status=404)
    for one in (done, failed, queued, cancelled):
        await ask("GET", JOB, job_id=one)
    await ask("GET", JOB, job_id=done, query="?wait=soon", status=400)
    await ask("GET", JOB, job_id=done, status=404, key="sk-another")
    await ask("GET", f"{JOB}/result", job_id=done)
    await ask("GET", f"{JOB}/result", job_id=queued, status=202)
    await ask("GET", f"{JOB}/result", job_id=cancelled, status=400)
    wanted = {"ids": [done, failed, queued, cancelled, "none"]}
    await ask("POST", "/v1/jobs/results", json=wanted)
    await ask("POST", "/v1/jobs/results", json={"tag": "team=etl"})
    await ask("POST", "/v1/jobs/results", json={}, status=400)
    await ask("POST", "/v1/jobs/results", json={}, key=None, status=401)
    await ask("POST", "/v1/jobs/results", data=b"x" * 1_000_001, status=400)
    await ask("DELETE", JOB, job_id=queued)
    await ask("DELETE", JOB, job_id=queued, status=404)
    await ask("POST", f"{JOB}/cancel", job_id=queued, status=404)
    await ask("GET", f"{JOB}/result", job_id=queued, status=404)

    # What is left takes a store that fails, a provider's own status, or time.
    unseen = {
        (operation["operationId"], status)
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
    } - book.seen
    assert {status for _, status in unseen} <= {"410", "429", "503", "default"}


async def test_a_store_that_is_away_is_the_problem_that_is_described(house):
    async def away(*args, **kwargs):
        raise StoreUnavailableError("the store is away")

    house.stores.jobs.get = house.stores.jobs.list_jobs = away

    await Book(house).ask("GET", "/v1/jobs", status=503)
    await Book(house).ask("GET", JOB, job_id=IDS.job(), status=503)


def test_parameters_are_bounded_as_they_are_read():
    schemas = {
        one["name"]: one["schema"] for one in DOCUMENT["paths"]["/v1/jobs"]["get"]["parameters"]
    }

    limit, status = schemas["limit"], schemas["status"]
    assert read_listing("/v1/jobs").limit == limit["default"]
    assert read_listing(f"/v1/jobs?limit={limit['maximum']}").limit == limit["maximum"]
    assert re.match(schemas["after"]["pattern"], IDS.job())
    words = ("queued", "in_progress", "completed", "failed", "expired", "cancelled")
    states = [read_listing(f"/v1/jobs?status={word}").where.states or () for word in words]
    assert {state for each in states for state in each} == set(JobState)
    assert all(re.match(status["pattern"], word) for word in (*words, "queued,failed"))


async def test_no_input_that_schemathesis_thinks_of_gets_an_answer_that_is_not_described(
    house, tmp_path
):
    """Some hundred calls, made from the description alone."""
    # All have ended: one that is pending is waited for as long as a call says.
    for _ in range(4):
        await house.finish(await house.job())
    # A cancelled job's result is a 400 on purpose: no SDK sends it again.
    (tmp_path / "schemathesis.toml").write_text(
        '[[operations]]\ninclude-operation-id = "readResult"\n'
        'checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "404", "410", "429"]\n'
    )
    tool = Path(sys.executable).with_name("schemathesis")
    words = (
        *("run", house.url("/v1/jobs/openapi.json"), "--header", f"Authorization: Bearer {KEY}"),
        *("--checks", "all", "--exclude-checks", "unsupported_method,ignored_auth"),
        *("--max-examples", EXAMPLES, "--phases", PHASES),
        *("--generation-database", "none", "--no-color", "--request-timeout", "20"),
    )
    process = await asyncio.create_subprocess_exec(
        tool, *words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()[-6000:]

"""Which call takes over the job of which, as callers see it."""

import asyncio
from dataclasses import replace

import pytest

from policies.policy import Policy
from proxy.core.job import JobState
from proxy.ports.jobs import JobWrite
from tests.helpers.factories import IdFactory
from tests.web.house import CHAT, CHAT_BODY, COMPLETION, DIVERT, Ruling, open_house


async def test_a_repeat_claims_the_job_of_a_caller_that_left(house):
    job = await house.abandoned()
    await house.finish(job)

    repeat = await house.defer("wait")

    assert (repeat.status, repeat.body) == (200, COMPLETION)
    assert repeat.headers["X-Deferrable-Job"] == job.id


async def test_a_second_equal_call_after_the_repeat_is_a_new_job(house):
    job = await house.abandoned()

    first, second = await house.defer("job"), await house.defer("job")

    assert first.json["id"] == job.id
    assert second.json["id"] != job.id


async def test_a_repeat_is_answered_in_its_own_mode(house):
    job = await house.abandoned()

    reply = await house.defer("raise")

    assert reply.status == 400
    assert job.id in reply.json["error"]["message"]


async def test_a_repeat_that_cannot_be_held_finds_its_job_when_it_comes_again():
    async with open_house(max_held=1) as house:
        job = await house.abandoned()
        with house.holding.enter(IdFactory().job(), is_waiter=False):
            refused = await house.defer("wait")
        await house.finish(job)
        again = await house.defer("wait")

    assert (refused.status, refused.json["error"]["code"]) == (429, "too_many_held")
    assert refused.headers["Retry-After"] == "30"
    assert (again.status, again.headers["X-Deferrable-Job"]) == (200, job.id)


async def test_a_repeat_without_a_tag_is_answered_as_the_call_that_it_repeats(house):
    job = await house.diverted()
    await house.finish(job)

    reply = await house.send("POST", CHAT, json=CHAT_BODY)

    assert (reply.status, reply.body) == (200, COMPLETION)
    assert house.seen == []


@pytest.mark.parametrize("retry_count", ["0", "2"])
async def test_under_rules_too_a_call_without_a_tag_repeats_none_that_had_one(retry_count):
    async with open_house(policy=Policy(generation=1)) as house:
        # One that was answered, and one that broke.
        await house.job()
        abandoned = await house.abandoned()
        headers = {"x-stainless-retry-count": retry_count}

        reply = await house.send("POST", CHAT, json=CHAT_BODY, headers=headers)
        again = await house.job()

    assert reply.json == {"up": True}
    assert again.id == abandoned.id


async def test_a_call_with_a_tag_repeats_none_that_a_rule_diverted(house):
    diverted = await house.diverted()

    other = await house.job()
    await house.finish(diverted)
    again = await house.send("POST", CHAT, json=CHAT_BODY)

    assert other.id != diverted.id
    assert again.headers["X-Deferrable-Job"] == diverted.id


@pytest.mark.parametrize(
    "names",
    [
        ({"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}),
        ({"X-Deferrable-Run": "r; session=1"}, {"X-Deferrable-Run": "r; session=2"}),
    ],
    ids=["key", "run"],
)
@pytest.mark.parametrize("tagged_first", [True, False])
async def test_calls_of_one_name_are_one_whoever_wanted_them_deferred(house, names, tagged_first):
    house.policy = Policy(Ruling(DIVERT), generation=1)
    tags = [{"X-Deferrable": "wait"}, {}] if tagged_first else [{}, {"X-Deferrable": "wait"}]
    first, second = [name | tag for name, tag in zip(names, tags, strict=True)]
    sending = house.tasks.create_task(house.send("POST", CHAT, json=CHAT_BODY, headers=first))
    await house.held()
    (job,) = await house.jobs()
    await house.finish(job)
    await sending

    reply = await house.send("POST", CHAT, json=CHAT_BODY, headers=second)

    assert (reply.status, reply.body) == (200, COMPLETION)
    assert reply.headers["X-Deferrable-Job"] == job.id
    assert house.seen == []


@pytest.mark.parametrize("retry_count", ["0", "1"])
@pytest.mark.parametrize("tags", [("job", None), ("wait", None), (None, "wait"), (None, None)])
async def test_a_repeat_finds_the_job_of_an_earlier_session_whoever_wanted_it_deferred(
    house, tags, retry_count
):
    house.policy = Policy(Ruling(DIVERT), generation=1)
    first, second = [
        {"X-Deferrable-Run": f"r; session={session}"} | ({"X-Deferrable": tag} if tag else {})
        for session, tag in enumerate(tags)
    ]
    if tags[0] == "job":
        await house.send("POST", CHAT, json=CHAT_BODY, headers=first)
    else:
        await house.left(first)
    await house.finish(await house.left(second))

    second["x-stainless-retry-count"] = retry_count
    reply = await house.send("POST", CHAT, json=CHAT_BODY, headers=second)

    assert (reply.status, reply.body) == (200, COMPLETION)
    assert await house.jobs() == []


@pytest.mark.parametrize("retry_count", ["0", "2"])
async def test_without_rules_a_call_without_a_tag_repeats_none_that_had_one(house, retry_count):
    await house.abandoned()
    headers = {"x-stainless-retry-count": retry_count}

    reply = await house.send("POST", CHAT, json=CHAT_BODY, headers=headers)

    assert reply.json == {"up": True}
    assert (await house.jobs())[0].state is JobState.QUEUED


async def test_a_call_that_must_not_be_deferred_claims_nothing(house):
    await house.abandoned()

    reply = await house.send("POST", CHAT, json=CHAT_BODY, headers={"X-Deferrable": "false"})

    assert reply.json == {"up": True}


async def test_another_owners_equal_call_claims_nothing(house):
    await house.abandoned()

    reply = await house.send("POST", CHAT, json=CHAT_BODY, key="sk-other")

    assert reply.json == {"up": True}


async def test_an_offer_that_finds_nothing_forwards_the_call_unchanged(house):
    raw = b' {"model":"m","messages":[{"role":"user","content":"x"}]} '
    headers = {"x-stainless-retry-count": "2", "Content-Type": "application/json"}

    reply = await house.send("POST", CHAT, data=raw, headers=headers)

    assert reply.json == {"up": True}
    assert house.seen[0].body == raw


async def test_a_retried_upload_is_no_repeat_of_a_job_and_passes_unread(house):
    reply = await house.send(
        "POST", "/v1/files", data=b"x" * 100_000, headers={"x-stainless-retry-count": "1"}
    )

    assert reply.json == {"up": True}
    assert len(house.seen[0].body) == 100_000


async def test_equal_samples_stay_as_many_as_they_are(house):
    replies = await asyncio.gather(*(house.defer() for _ in range(8)))

    assert len({reply.json["id"] for reply in replies}) == 8


@pytest.mark.parametrize(
    ("named", "otherwise"),
    [
        ({"Idempotency-Key": "one"}, {"Idempotency-Key": "two"}),
        ({"Idempotency-Key": "one"}, {}),
        ({"X-Deferrable-Run": "one"}, {"X-Deferrable-Run": "two"}),
        ({}, {"X-Deferrable-Run": "two"}),
    ],
)
async def test_an_equal_call_of_another_name_claims_nothing(house, named, otherwise):
    abandoned = await house.abandoned(headers=named)

    other = await house.job(headers=otherwise)
    again = await house.job(headers=named)

    assert other.id != abandoned.id
    assert again.id == abandoned.id


async def test_a_call_goes_by_its_key_whatever_run_it_belongs_to(house):
    abandoned = await house.abandoned(headers={"Idempotency-Key": "k", "X-Deferrable-Run": "one"})

    again = await house.job(headers={"Idempotency-Key": "k", "X-Deferrable-Run": "two"})

    assert again.id == abandoned.id


async def test_a_key_finds_the_job_of_a_version_that_left_names_out_of_fingerprints(house):
    key = {"Idempotency-Key": "k"}
    unnamed, made = await house.job(), await house.job(headers=key)
    as_before = replace(made, fingerprint=unnamed.fingerprint, version=made.version + 1)
    await house.stores.jobs.replace_many([JobWrite(as_before)])

    again = await house.job(headers=key)

    assert again.id == made.id


async def test_a_run_that_starts_again_finds_by_counting_what_its_last_session_left(house):
    """Goal: n equal calls of a resumed run get n jobs, though some of them had broken off."""
    first = {"X-Deferrable-Run": "nightly; session=1"}
    second = {"X-Deferrable-Run": "nightly; session=2"}
    delivered = await house.job(headers=first)
    abandoned = await house.abandoned(headers=first)

    again = [await house.job(headers=second) for _ in range(4)]

    assert [job.id for job in again[:2]] == [delivered.id, abandoned.id]
    assert len({job.id for job in again}) == 4


async def test_within_a_session_a_repeat_claims_and_is_no_further_occurrence(house):
    session = {"X-Deferrable-Run": "nightly; session=1"}
    abandoned = await house.abandoned(headers=session)

    again, next_one = [await house.job(headers=session) for _ in range(2)]

    assert again.id == abandoned.id
    assert next_one.id != abandoned.id

"""What of a batch goes to its provider."""

import json
import random
from datetime import timedelta
from itertools import groupby

from proxy.core.affinity import affinity
from proxy.core.dialects import Shape
from tests.helpers.fleet import Fleet


async def sent(fleet: Fleet) -> list[bytes]:
    """The bodies of the first batch, as its provider got them."""
    return [body for _, body in fleet.provider.batches["batch_1"].lines]


async def test_bodies_go_out_as_they_came_in() -> None:
    fleet = Fleet()

    await fleet.submit(12)

    assert await sent(fleet) == list(fleet.bodies.values())


async def test_where_batches_know_the_model_by_another_name_only_that_is_changed() -> None:
    fleet = Fleet()
    fleet.provider.batch_models = {"gpt-4o-mini": "mini-batch"}

    await fleet.submit(12)

    for came, went in zip(fleet.bodies.values(), await sent(fleet), strict=True):
        assert json.loads(went) == json.loads(came) | {"model": "mini-batch"}
        assert b'"model":"mini-batch"' in went


async def test_a_direct_call_keeps_the_name_that_its_caller_wrote() -> None:
    fleet = Fleet()
    fleet.provider.batch_models = {"gpt-4o-mini": "mini-batch"}
    (job_id,) = await fleet.accept_many(1, deadline=timedelta(minutes=20))

    await fleet.run_for(timedelta(minutes=5), step=timedelta(seconds=30))

    assert set(fleet.provider.bought) == {fleet.bodies[job_id]}


async def test_the_provider_is_told_how_long_it_is_to_the_nearest_deadline() -> None:
    fleet = Fleet()
    await fleet.accept_many(11, deadline=timedelta(hours=9))
    await fleet.flush(1, deadline=timedelta(hours=5))
    slacks = []
    create = fleet.provider.create

    async def watched(credential, submission, file_id):
        slacks.append(submission.slack)
        return await create(credential, submission, file_id)

    fleet.provider.create = watched  # type: ignore[method-assign]
    await fleet.run("submit")

    assert slacks == [timedelta(hours=5, seconds=-60)]


async def test_in_the_file_of_a_batch_calls_with_the_same_beginning_stand_together() -> None:
    fleet = Fleet()
    calls = [
        {"messages": [{"role": "system", "content": rules}, {"role": "user", "content": text}]}
        for rules in ("be terse", "be kind", "be exact")
        for text in "abcdefgh"
    ]
    random.Random(7).shuffle(calls)
    for call in calls:
        await fleet.accept(affinity=affinity(call, Shape.CHAT))
    spoken = dict(zip(fleet.bodies.values(), calls, strict=True))

    fleet.clock.advance(seconds=60)
    await fleet.run("live", "flush", "submit")

    ((_, content, _),) = fleet.provider.files.values()
    bodies = [line.partition(b'"body":')[2][:-1] for line in content.splitlines()]
    rules = [spoken[body]["messages"][0]["content"] for body in bodies]
    assert len(rules) == 24
    assert len([*groupby(rules)]) == 3
    assert set(bodies) == set(fleet.bodies.values()), "not a byte of a call is changed"

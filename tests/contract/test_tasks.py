"""Whoever owns tasks for a service can be a plain task group."""

import asyncio

from proxy.ports.tasks import TaskOwner


async def test_a_task_group_is_an_owner_of_tasks():
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    async with asyncio.TaskGroup() as group:
        owner: TaskOwner = group
        task = owner.create_task(work(), name="work")

    assert done.is_set()
    assert task.get_name() == "work"

import asyncio
import socket
import threading

import pytest

from proxy.core.errors import ProviderUnavailableError
from proxy.providers.worker import AbortedError, Call, TracedConnection, Worker
from tests.helpers.raw_upstream import wait_until

LONG_S = 60.0


@pytest.fixture
async def worker():
    made = Worker("test-worker")
    yield made
    await made.aclose()
    assert not [t for t in threading.enumerate() if t.name.startswith("test-worker")]


class Stuck:
    """Work that ends only by being aborted."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.aborted = threading.Event()

    def __call__(self, call: Call) -> None:
        with call.over(self.aborted.set):
            self.began.set()
            self.aborted.wait(LONG_S)
            raise AbortedError


async def test_work_runs_in_one_thread_in_order(worker):
    seen = []

    def work(call: Call) -> int:
        seen.append(threading.current_thread().name)
        return len(seen)

    results = await asyncio.gather(*(worker.run("x", work, within_s=LONG_S) for _ in range(5)))

    assert results == [1, 2, 3, 4, 5]
    assert len(set(seen)) == 1


async def test_a_failure_of_the_work_reaches_its_caller(worker):
    def work(call: Call) -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError):
        await worker.run("x", work, within_s=LONG_S)


async def test_cancelling_the_caller_aborts_the_work_and_frees_the_thread(worker):
    stuck = Stuck()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(worker.run("x", stuck, within_s=LONG_S))
        await wait_until(stuck.began.is_set)
        waiting.cancel()

    assert stuck.aborted.is_set()
    assert await worker.run("x", lambda _: "free", within_s=LONG_S) == "free"


async def test_cancelled_work_that_did_not_begin_never_does(worker):
    stuck, ran = Stuck(), []
    async with asyncio.TaskGroup() as group:
        first = group.create_task(worker.run("x", stuck, within_s=LONG_S))
        second = group.create_task(worker.run("y", lambda _: ran.append(1), within_s=LONG_S))
        await wait_until(stuck.began.is_set)
        second.cancel()
        await asyncio.wait([second])
        first.cancel()

    await worker.run("z", lambda _: None, within_s=LONG_S)
    assert ran == []


async def test_a_bound_that_passes_before_the_work_began_proves_that_nothing_was_sent(worker):
    stuck = Stuck()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(worker.run("x", stuck, within_s=LONG_S))
        await wait_until(stuck.began.is_set)
        with pytest.raises(ProviderUnavailableError) as failure:
            await worker.run("y", lambda _: None, within_s=0.01)
        first.cancel()

    assert not failure.value.sent


async def test_a_bound_that_passes_during_the_work_leaves_it_open_what_was_sent(worker):
    stuck = Stuck()

    with pytest.raises(ProviderUnavailableError) as failure:
        await worker.run("x", stuck, within_s=1.0)

    assert failure.value.sent
    assert stuck.aborted.is_set()


async def test_closing_aborts_what_is_under_way_and_fails_who_waits():
    worker, stuck = Worker("test-ending"), Stuck()

    async def wait() -> None:
        with pytest.raises(ProviderUnavailableError):
            await worker.run("x", stuck, within_s=LONG_S)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait())
        await wait_until(stuck.began.is_set)
        await worker.aclose()

    worker.post(lambda: None)


def test_an_abort_after_the_work_does_not_hit_the_next():
    call, hits = Call(), []
    with call.over(lambda: hits.append(1)):
        pass

    call.abort()

    assert hits == []
    with pytest.raises(AbortedError), call.over():
        pass


class Connected:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._sock


def connect(connection: TracedConnection, sock: socket.socket) -> None:
    connection.trace("connection.connect_tcp.complete", {"return_value": Connected(sock)})


def test_a_cut_wakes_a_thread_that_reads_from_the_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection, got = TracedConnection(), []
        connect(connection, ours)
        thread = threading.Thread(target=lambda: got.append(ours.recv(1)))
        thread.start()

        connection.cut()
        thread.join(LONG_S)

        assert got == [b""]


def test_after_a_cut_nothing_more_is_begun_and_a_late_connection_is_closed():
    connection = TracedConnection()
    ours, theirs = socket.socketpair()
    connection.cut()

    with theirs, pytest.raises(AbortedError):
        connect(connection, ours)
    assert ours.fileno() == -1
    with pytest.raises(AbortedError):
        connection.trace("http11.send_request_headers.started", {})
    connection.trace("http11.response_closed.started", {})
    connection.trace("http11.receive_response_body.failed", {})

"""What every `Provider` must do. A new adapter joins by adding one fixture param.

Each runs against a server with real batch semantics, over real sockets; what is
bought and how often something was asked is read from that server.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import structlog

from proxy.core.batch_ends import INPUT_CHANGED, ran_to_its_end
from proxy.core.errors import (
    CredentialRefusedError,
    ProviderBusyError,
    ProviderError,
    ProviderRejectedError,
    ProviderUnavailableError,
    StoreUnavailableError,
)
from proxy.ports.jobs import Credential
from proxy.ports.provider import (
    LineKind,
    Provider,
    ProviderBatch,
    ProviderBatchState,
    ResultLine,
    Submission,
)
from proxy.sandbox.faults import BatchFault, HttpFault, LineFault
from proxy.sandbox.server import Running, Sandbox
from proxy.sandbox.settings import SandboxSettings
from tests.helpers.factories import make_batch
from tests.helpers.raw_upstream import wait_until
from tests.providers.kit import CHAT, KEY, all_results, framed, make_submission
from tests.providers.wires import WIRES, Wire

HOUR = 3_600.0
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bench:
    """An adapter at a server whose clock stands still."""

    wire: Wire
    provider: Provider
    credential: Credential
    server: Running

    def submission(self, bodies: Sequence[bytes]) -> Submission:
        wire = self.wire
        return make_submission(self.provider, bodies, endpoint=wire.endpoint, model=wire.model)

    async def bought(
        self, submission: Submission, credential: Credential | None = None
    ) -> ProviderBatch:
        credential = credential or self.credential
        file_id = await self.provider.upload(credential, submission)
        assert (file_id is not None) == self.wire.uploads
        return await self.provider.create(credential, submission, file_id)

    async def found(
        self, submission: Submission, file_id: str | None, *, created_after: datetime = LONG_AGO
    ) -> Sequence[ProviderBatch]:
        return await self.provider.find_batches(
            self.credential,
            submission.batch_id,
            created_after=created_after,
            input_file_id=file_id,
        )

    async def after(self, batch: ProviderBatch, seconds: float) -> ProviderBatch:
        await self.server.advance(seconds)
        return await self.provider.retrieve(self.credential, batch.id)

    async def kinds(self, batch: ProviderBatch) -> Counter[tuple[str, int]]:
        """What became of the lines, by kind and status."""
        lines = await all_results(self.provider, self.credential, batch.output_file_ids)
        return Counter((line.kind.value, line.status_code) for line in lines)

    def asked(self, route: str) -> int:
        return self.server.ledger.requests[route]

    def breaks(self, **fault: Any) -> None:
        self.server.faults.add(HttpFault(**fault))

    def breaks_results(self, **fault: Any) -> None:
        self.breaks(path=self.wire.results_path, nth=self.wire.results_nth, **fault)


@asynccontextmanager
async def opened(wire: Wire) -> AsyncIterator[Bench]:
    settings = SandboxSettings(time_scale=0, turnaround_s=HOUR, cancel_s=600)
    async with (
        Sandbox(settings).serve() as server,
        wire.opened(server.base_url) as provider,
    ):
        yield Bench(wire, provider, wire.credential(KEY), server)


@pytest.fixture(params=list(WIRES))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A batch takes an hour here, and a cancel ten minutes."""
    async with opened(WIRES[request.param]) as made:
        yield made


UPLOADING = [name for name, wire in WIRES.items() if wire.uploads]


@pytest.fixture(params=UPLOADING)
async def uploads(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The same, with every adapter whose inputs are files."""
    async with opened(WIRES[request.param]) as made:
        yield made


@pytest.fixture(params=[name for name in UPLOADING if WIRES[name].endpoint == CHAT])
async def files(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The same, with an adapter of the OpenAI family, which is asked for a file's batch."""
    async with opened(WIRES[request.param]) as made:
        yield made


async def all_batches(bench: Bench) -> Sequence[object]:
    """What the provider itself lists."""
    page = bench.server.base_url + bench.wire.batches + "?limit=100"
    headers = {**dict(bench.credential.headers), "anthropic-version": "2023-06-01"}
    async with aiohttp.ClientSession() as http, http.get(page, headers=headers) as answer:
        page = await answer.json()
        return list(page if isinstance(page, list) else page.get(bench.wire.list_name, []))


def ten(bench: Bench) -> Submission:
    return bench.submission([bench.wire.body(f"question {n}") for n in range(10)])


async def test_a_batch_is_bought_once_and_its_answers_come_back_by_name(bench):
    submission = ten(bench)

    batch = await bench.bought(submission)
    ended = await bench.after(batch, HOUR)

    assert batch.state is ProviderBatchState.RUNNING
    assert ended.state is ProviderBatchState.ENDED
    assert ended.status == bench.wire.words["completed"]
    lines = await all_results(bench.provider, bench.credential, ended.output_file_ids)
    assert {line.custom_id for line in lines} == {f"job-{n}" for n in range(10)}
    assert all(line.kind is LineKind.ANSWERED and line.status_code == 200 for line in lines)
    assert all(line.body.startswith(bench.wire.answer_begins) for line in lines)
    assert bench.server.ledger.totals(lane="batch").executions == 10
    exchanges = bench.wire.upload_exchanges if bench.wire.uploads else 0
    assert (bench.asked(bench.wire.uploaded), bench.asked(bench.wire.create)) == (exchanges, 1)


async def test_the_window_is_told_in_the_providers_time(bench):
    batch = await bench.bought(ten(bench))

    assert batch.window_ends_at == batch.created_at + timedelta(days=bench.wire.windows)


async def test_a_body_is_spliced_into_its_line_as_it_is(bench):
    odd = bench.wire.body("\\u0041é").replace(b", ", b" ,").replace(b"{", b"{ ", 1)

    line = framed(bench.provider, 'a"b', odd, bench.wire.endpoint)

    assert odd in line
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    batch = await bench.bought(bench.submission([odd]))
    assert (await bench.kinds(await bench.after(batch, HOUR))) == {("answered", 200): 1}


async def test_limits_leave_room_below_what_the_provider_takes(bench):
    limits = bench.provider.limits(bench.wire.endpoint)
    requests, size = bench.wire.input_limits(bench.server.engine.settings)

    assert 0 < limits.max_requests <= requests
    assert 0 < limits.max_line_bytes < limits.max_bytes < size


FAILURES: dict[str, dict[str, Any]] = {
    "status": {"action": "status", "status": 500},
    "reset before": {"action": "reset_before"},
    "reset after": {"action": "reset_after"},
    "truncated": {"action": "truncate", "after_bytes": 1},
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_an_ambiguous_create_is_sent_once_and_found_by_listing_if_it_was_done(bench, failure):
    submission = ten(bench)
    file_id = await bench.provider.upload(bench.credential, submission)
    bench.breaks(method="POST", path=bench.wire.create_path, **FAILURES[failure])

    with pytest.raises(ProviderUnavailableError) as raised:
        await bench.provider.create(bench.credential, submission, file_id)

    assert raised.value.sent
    assert bench.asked(bench.wire.create) == 1
    found = await bench.found(submission, file_id)
    was_done = failure in {"reset after", "truncated"}
    assert len(found) == was_done


async def test_a_create_that_may_not_be_sent_any_more_is_not(bench):
    submission = replace(ten(bench), may_send=lambda: False)
    file_id = await bench.provider.upload(bench.credential, submission)

    with pytest.raises(ProviderUnavailableError) as raised:
        await bench.provider.create(bench.credential, submission, file_id)

    assert not raised.value.sent
    assert bench.asked(bench.wire.create) == 0


async def test_a_create_that_succeeds_with_an_error_may_have_made_a_batch(bench):
    """A gateway may put its own words in the place of the answer."""
    submission = ten(bench)
    file_id = await bench.provider.upload(bench.credential, submission)
    bench.breaks(action="status", status=200, body='{"error":{"message":"oops","code":"x"}}')

    with pytest.raises(ProviderUnavailableError) as raised:
        await bench.provider.create(bench.credential, submission, file_id)

    assert raised.value.sent


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_broken_upload_is_sent_once_and_found_if_it_arrived(uploads, failure):
    submission, wire = ten(uploads), uploads.wire
    # The last of its exchanges is the one that brings the bytes.
    nth = wire.upload_exchanges
    uploads.breaks(method="POST", path=wire.upload, nth=nth, **FAILURES[failure])

    with pytest.raises(ProviderUnavailableError):
        await uploads.provider.upload(uploads.credential, submission)
    found = await uploads.provider.find_upload(uploads.credential, submission)

    assert uploads.asked(wire.uploaded) == nth
    assert (found is not None) == (failure in {"reset after", "truncated"})
    file_id = found or await uploads.provider.upload(uploads.credential, submission)
    batch = await uploads.provider.create(uploads.credential, submission, file_id)
    assert (await uploads.after(batch, HOUR)).status == wire.words["completed"]


async def test_no_request_is_repeated_whatever_it_is_answered(bench):
    batch = await bench.bought(ten(bench))
    provider, credential = bench.provider, bench.credential
    wire = bench.wire
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        wire.retrieve: lambda: provider.retrieve(credential, batch.id),
        wire.list: lambda: provider.find_batches(
            credential, ten(bench).batch_id, created_after=LONG_AGO
        ),
        wire.delete: lambda: provider.delete_file(credential, wire.some_name),
        wire.results: lambda: all_results(provider, credential, [wire.some_name]),
    }
    if wire.cancels:
        calls[wire.cancel] = lambda: provider.cancel(credential, batch.id)
    if wire.uploads:
        calls[f"GET {wire.files}"] = lambda: provider.find_upload(credential, ten(bench))
    for fault in FAILURES.values():
        for route, call in calls.items():
            before = bench.asked(route)
            bench.breaks(**fault, headers={"Retry-After": "0"})
            with pytest.raises(ProviderUnavailableError):
                await call()
            assert bench.asked(route) == before + 1, (route, fault)


@pytest.mark.parametrize("name", WIRES)
async def test_where_nothing_listens_it_is_certain_that_nothing_was_sent(name, unused_tcp_port):
    wire = WIRES[name]
    async with wire.opened(f"http://127.0.0.1:{unused_tcp_port}") as provider:
        submission = make_submission(
            provider, [wire.body("x")], endpoint=wire.endpoint, model=wire.model
        )
        file_id = "file-1" if wire.uploads else None

        with pytest.raises(ProviderUnavailableError) as raised:
            await provider.create(wire.credential(KEY), submission, file_id)

    assert not raised.value.sent


async def test_two_batches_with_our_id_are_both_found_oldest_first(files):
    submission, other = ten(files), ten(files)
    file_id = await files.provider.upload(files.credential, submission)
    batches = []
    for bought in (submission, other, submission):
        batches.append(await files.provider.create(files.credential, bought, file_id))
        await files.server.advance(1)

    # All of them have one input, as no two batches of ours ever have.
    found = await files.found(submission, file_id)

    theirs = [batches[1].id] if files.wire.is_known_by_its_file else []
    assert {batch.id for batch in found} - {*theirs} == {batches[0].id, batches[2].id}
    assert [batch.created_at for batch in found] == sorted(batch.created_at for batch in found)


async def test_a_search_reads_page_after_page_but_not_further_back_than_needed(files):
    if not files.wire.pages:
        pytest.skip("its lists come whole, or in any order")
    submission = ten(files)
    file_id = await files.provider.upload(files.credential, submission)
    old = await files.provider.create(files.credential, submission, file_id)
    await files.server.advance(5 * 60)
    for _ in range(120):
        await files.provider.create(files.credential, ten(files), file_id)

    async def found(created_after: datetime) -> list[str]:
        batches = await files.found(submission, file_id, created_after=created_after)
        return [batch.id for batch in batches]

    assert await found(old.created_at) == [old.id]
    assert files.asked(files.wire.list) == 2
    for _ in range(100):
        await files.provider.create(files.credential, ten(files), file_id)
    assert await found(old.created_at + timedelta(days=1)) == []
    assert files.asked(files.wire.list) == 3


async def test_an_upload_of_the_same_name_and_another_size_is_not_ours(uploads):
    submission = ten(uploads)
    await uploads.provider.upload(uploads.credential, submission)

    longer = replace(submission, input_bytes=submission.input_bytes + 1)

    assert await uploads.provider.find_upload(uploads.credential, longer) is None
    assert await uploads.provider.find_upload(uploads.credential, ten(uploads)) is None


@pytest.mark.parametrize("difference", [-1, 1])
async def test_an_input_of_another_length_than_announced_never_becomes_a_file(uploads, difference):
    honest = ten(uploads)
    submission = replace(honest, input_bytes=honest.input_bytes + difference)

    with pytest.raises(ProviderUnavailableError) as caught:
        await uploads.provider.upload(uploads.credential, submission)

    assert caught.value.code == INPUT_CHANGED
    assert await uploads.provider.find_upload(uploads.credential, honest) is None
    assert await uploads.provider.find_upload(uploads.credential, submission) is None


async def test_a_failure_of_the_input_itself_comes_through_unchanged(bench):
    submission = ten(bench)

    async def broken() -> AsyncIterator[bytes]:
        yield b"{}\n"
        raise StoreUnavailableError("the store is away")

    with pytest.raises(StoreUnavailableError):
        await bench.bought(replace(submission, lines=broken))

    assert await bench.bought(submission)
    assert len(await all_batches(bench)) == 1


async def test_a_cancelled_upload_lets_go_of_everything(bench):
    submission, opened = ten(bench), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"{}\n"
        opened.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        uploading = group.create_task(bench.bought(replace(submission, lines=endless)))
        await opened.wait()
        uploading.cancel()

    assert uploading.cancelled()
    async with asyncio.timeout(20):
        assert await bench.bought(submission)
    assert len(await all_batches(bench)) == 1


async def test_a_cancelled_call_does_not_wait_for_a_silent_provider(bench):
    submission = ten(bench)
    file_id = await bench.provider.upload(bench.credential, submission)
    bench.breaks(action="stall", method="POST", path=bench.wire.create_path)
    async with asyncio.TaskGroup() as group:
        creating = group.create_task(bench.provider.create(bench.credential, submission, file_id))
        # Not when it is asked but when it is done: a caller who leaves before stops it.
        async with asyncio.timeout(60):
            while not await all_batches(bench):
                await asyncio.sleep(0)
        creating.cancel()

    async with asyncio.timeout(20):
        found = await bench.found(submission, file_id)
    assert len(found) == 1


async def test_a_word_that_is_not_known_means_that_the_batch_still_runs(bench):
    if bench.wire.counts_alone:
        pytest.skip("it has no words")
    batch = await bench.bought(ten(bench))
    bench.server.faults.add(BatchFault(batch_id=batch.id, shown_status="pondering"))

    with structlog.testing.capture_logs() as logs:
        polled = await bench.provider.retrieve(bench.credential, batch.id)

    assert polled.state is ProviderBatchState.RUNNING
    assert polled.status == "pondering"
    (event,) = [entry for entry in logs if entry["event"] == "provider.unknown_status"]
    assert event["log_level"] == "warning"
    assert event["status"] == "pondering"


@pytest.mark.parametrize("vanish", ["not_found", "error_body"])
async def test_a_batch_that_the_provider_knows_no_more_is_a_404(bench, vanish):
    batch = await bench.bought(ten(bench))
    bench.server.faults.add(BatchFault(batch_id=batch.id, vanish=vanish))

    with pytest.raises(ProviderRejectedError) as raised:
        await bench.provider.retrieve(bench.credential, batch.id)

    assert raised.value.status_code == 404


async def test_a_batch_that_failed_says_which_line_was_at_fault(files):
    files.server.faults.add(
        BatchFault(fail_code="invalid_json_line", fail_message="Not JSON.", fail_line=3)
    )

    failed = await files.after(await files.bought(ten(files)), 1)

    assert failed.state is ProviderBatchState.ENDED
    told = (failed.error_code, failed.error_line)
    assert told == files.wire.failure("invalid_json_line", 3)
    assert (failed.status, failed.error_message) == ("failed", "Not JSON.")
    assert failed.output_file_ids == ()


@pytest.mark.parametrize("fault", ["empty_absent", "empty_all"])
async def test_an_empty_string_is_no_file(files, fault):
    if files.wire.counts_alone:
        pytest.skip("it names no files")
    files.server.faults.add(BatchFault(file_ids=fault))

    ended = await files.after(await files.bought(ten(files)), HOUR)

    assert ended.status == "completed"
    assert bool(ended.output_file_ids) == (fault == "empty_absent")
    assert all(ended.output_file_ids)
    assert "" not in ended.output_file_ids


async def completed(bench: Bench, batch: ProviderBatch) -> ProviderBatch:
    return await bench.after(batch, HOUR)


async def expired(bench: Bench, batch: ProviderBatch) -> ProviderBatch:
    bench.server.faults.add(BatchFault(batch_id=batch.id, stop_after=4))
    return await bench.after(batch, 24 * HOUR * bench.wire.windows)


async def cancelled(bench: Bench, batch: ProviderBatch) -> ProviderBatch:
    if not bench.wire.cancels:
        pytest.skip("it stops no batch")
    await bench.server.advance(HOUR * 0.45)
    cancelling = await bench.provider.cancel(bench.credential, batch.id)
    assert cancelling.state is ProviderBatchState.CANCELLING
    return await bench.after(batch, 600)


OUTCOMES = {"completed": (completed, 10), "expired": (expired, 4), "cancelled": (cancelled, 4)}


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_what_was_finished_is_there_however_the_batch_ended(bench, outcome):
    end, finished = OUTCOMES[outcome]

    ended = await end(bench, await bench.bought(ten(bench)))

    assert ended.state is ProviderBatchState.ENDED
    assert ended.status == bench.wire.words[outcome]
    stopped_at = ended.created_at if outcome == "cancelled" else None
    known = make_batch(end_reason=ended.status, cancelled_at=stopped_at)
    if outcome == "expired" and ended.status == bench.wire.words["completed"]:
        assert ran_to_its_end(known), "it has one word for both"
    else:
        assert ran_to_its_end(known) is (outcome == "completed")
    expected = Counter({("answered", 200): finished, ("not_executed", 0): 10 - finished})
    if outcome != "completed" and not bench.wire.keeps_partial:
        # Paid for, and not to be had.
        expected = Counter()
    assert await bench.kinds(ended) == +expected
    assert bench.server.ledger.totals(lane="batch").executions == finished


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("status", [400, 429, 503])
async def test_a_refused_line_keeps_its_status_and_body_however_the_batch_ended(
    bench, outcome, status
):
    end, finished = OUTCOMES[outcome]
    bench.server.faults.add(LineFault(outcome="status", status=status, code="why", count=2))

    ended = await end(bench, await bench.bought(ten(bench)))

    kinds = await bench.kinds(ended)
    if outcome != "completed" and not bench.wire.keeps_partial:
        assert not kinds
        return
    shown, code = bench.wire.refused[status]
    assert kinds[("answered", 200)] == finished - 2
    lines = await all_results(bench.provider, bench.credential, ended.output_file_ids)
    refused = [line for line in lines if line.error_code == code]
    assert len(refused) == 2
    assert {line.status_code for line in refused} == {shown}
    assert all(code.encode() in line.body for line in refused if shown)


async def test_a_batch_whose_every_line_failed_has_one_file(bench):
    bench.server.faults.add(LineFault(outcome="status", status=500, count=None))

    ended = await bench.after(await bench.bought(ten(bench)), HOUR)

    assert ended.status == bench.wire.words["completed"]
    assert len(ended.output_file_ids) == 1
    shown = bench.wire.refused[503][0]
    kind = "answered" if shown else "not_executed"
    assert set(await bench.kinds(ended)) == {(kind, shown and 500)}


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("missing", {("answered", 200): 9}),
        ("unparsable", {("answered", 200): 9, ("unreadable", 0): 1}),
        ("duplicate", {("answered", 200): 11}),
        ("foreign", {("answered", 200): 11}),
    ],
)
async def test_a_spoiled_line_does_not_spoil_the_others(bench, outcome, expected):
    bench.server.faults.add(LineFault(outcome=outcome, custom_id="job-3"))

    ended = await bench.after(await bench.bought(ten(bench)), HOUR)

    assert await bench.kinds(ended) == expected
    lines = await all_results(bench.provider, bench.credential, ended.output_file_ids)
    names = {f"job-{n}" for n in range(10)} - ({"job-3"} if outcome == "missing" else set())
    assert names <= {line.custom_id for line in lines}


async def test_lines_that_came_before_a_download_broke_off_stay_valid(bench):
    submission = bench.submission([bench.wire.body(f"question {n}") for n in range(2_000)])
    ended = await bench.after(await bench.bought(submission), HOUR)
    file_id, *_ = ended.output_file_ids
    bench.breaks_results(action="truncate", after_bytes=600_000)

    lines: list[ResultLine] = []

    async def read() -> None:
        async for chunk in bench.provider.results(bench.credential, file_id):
            lines.extend(chunk)

    with pytest.raises(ProviderUnavailableError):
        await read()

    assert 100 < len(lines) < 2_000
    assert {line.kind for line in lines} == {LineKind.ANSWERED}
    assert len(await all_results(bench.provider, bench.credential, [file_id])) == 2_000


async def test_whoever_reads_results_may_call_the_provider_meanwhile(bench):
    submission = bench.submission([bench.wire.body(f"question {n}") for n in range(2_000)])
    ended = await bench.after(await bench.bought(submission), HOUR)
    file_id, *_ = ended.output_file_ids

    chunks = 0
    async with asyncio.timeout(60):
        async for chunk in bench.provider.results(bench.credential, file_id):
            chunks += 1
            assert len(chunk) < 2_000
            if chunks > 1:
                # Where results are part of the batch, each of these calls reads all of them.
                continue
            await bench.provider.retrieve(bench.credential, ended.id)
            await all_results(bench.provider, bench.credential, [file_id])
            await bench.bought(ten(bench))
    assert chunks > 1


async def test_results_may_be_left_half_read(bench):
    ended = await bench.after(await bench.bought(ten(bench)), HOUR)
    bench.breaks_results(action="stall", after_bytes=10)
    results = bench.provider.results(bench.credential, ended.output_file_ids[0])

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(anext(results))
        await wait_until(lambda: any(armed.hits for armed in bench.server.faults.armed()))
        reading.cancel()

    async with asyncio.timeout(20):
        assert await bench.kinds(ended) == {("answered", 200): 10}


async def test_deleting_a_file_twice_is_no_error(uploads):
    submission = ten(uploads)
    file_id = await uploads.provider.upload(uploads.credential, submission)

    await uploads.provider.delete_file(uploads.credential, file_id)
    await uploads.provider.delete_file(uploads.credential, file_id)

    assert await uploads.provider.find_upload(uploads.credential, submission) is None


async def test_what_one_credential_made_no_other_sees(bench):
    mine, other = bench.credential, bench.wire.credential("sk-other")
    submission = ten(bench)
    batch = await bench.bought(submission)
    ended = await bench.after(batch, HOUR)

    assert await bench.provider.find_upload(other, submission) is None
    assert not await bench.provider.find_batches(other, submission.batch_id, created_after=LONG_AGO)
    with pytest.raises(ProviderRejectedError):
        await bench.provider.retrieve(other, batch.id)
    with pytest.raises(ProviderRejectedError):
        await all_results(bench.provider, other, ended.output_file_ids)
    await bench.provider.delete_file(other, ended.output_file_ids[0])
    assert await all_results(bench.provider, mine, ended.output_file_ids)


async def test_many_credentials_take_turns(bench):
    credentials = [bench.wire.credential(f"sk-{n}") for n in range(40)]
    submission = ten(bench)

    async def buy(credential: Credential) -> str:
        batch: ProviderBatch = await bench.bought(submission, credential)
        return batch.id

    batch_ids = await asyncio.gather(*map(buy, credentials))
    polled = await asyncio.gather(
        *(bench.provider.retrieve(*pair) for pair in zip(credentials, batch_ids, strict=True))
    )

    assert [batch.id for batch in polled] == batch_ids
    assert len(set(batch_ids)) == 40


@pytest.mark.parametrize("trouble", ["revoke", "deny_batch", "exhaust"])
async def test_trouble_with_the_account_is_told_from_trouble_with_the_call(bench, trouble):
    submission = ten(bench)
    file_id = await bench.provider.upload(bench.credential, submission)
    getattr(bench.server.keys, trouble)(KEY)

    with pytest.raises(CredentialRefusedError) as raised:
        await bench.provider.create(bench.credential, submission, file_id)

    assert raised.value.status_code in {400, 401, 402, 403, 429}
    assert raised.value.body


async def test_a_rate_limit_says_when_to_come_back(bench):
    bench.breaks(action="status", status=429, code="rate_limit", headers={"Retry-After": "17"})

    with pytest.raises(ProviderBusyError) as raised:
        await bench.bought(ten(bench))

    assert raised.value.retry_after == timedelta(seconds=17)


async def test_a_batch_that_has_ended_cannot_be_cancelled_and_stays_as_it_is(bench):
    ended = await bench.after(await bench.bought(ten(bench)), HOUR)

    with pytest.raises((ProviderBusyError, ProviderRejectedError)):
        await bench.provider.cancel(bench.credential, ended.id)

    status = (await bench.provider.retrieve(bench.credential, ended.id)).status
    assert status == bench.wire.words["completed"]


async def test_no_secret_and_no_prompt_is_in_any_log_or_error(bench, caplog):
    caplog.set_level(logging.DEBUG)
    submission = bench.submission([bench.wire.body("prompt-canary")])
    batch = await bench.bought(submission)
    texts = []
    echo = '{"error": {"message": "Incorrect API key provided: %s", "code": "%s"}}'
    for status, code in ((401, "invalid_api_key"), (400, "bad"), (500, "oops")):
        bench.breaks(action="status", status=status, body=echo % (KEY, code))
        with pytest.raises(ProviderError) as raised:
            await bench.provider.retrieve(bench.credential, batch.id)
        texts += [str(raised.getrepr(chain=True, style="native")), repr(vars(raised.value))]
    bench.breaks(action="reset_after")
    with pytest.raises(ProviderError) as raised:
        await bench.bought(submission)
    texts += [str(raised.getrepr(chain=True, style="native")), repr(raised.value.__cause__)]

    for text in (*texts, caplog.text):
        assert "canary" not in text
    assert raised.value.__cause__ is None

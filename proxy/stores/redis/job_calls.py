"""The calls of the scripts that accept and write jobs: their keys and arguments, in their order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from proxy.core.ids import OwnerId, shard_of
from proxy.core.job import AnswerMode, Job, JobState
from proxy.core.lanes import BatchKey
from proxy.ports.jobs import JobWrite, NewJob
from proxy.stores.codec import encode_key, to_micros, to_micros_or
from proxy.stores.redis import job_scripts, keys
from proxy.stores.redis.commands import Command, slot_of
from proxy.stores.redis.ledger_rows import book_arguments, ledger_keys
from proxy.stores.redis.packing import Argument, pack_some
from proxy.stores.redis.records import NOTHING, Header, pack_record


def accept_call(new: NewJob, sealed: bytes, *, place: str, gone: str) -> Command:
    """Return the command that accepts a job.

    `place` is the field of its idempotency key, if it has one, and `gone` a job that
    the key stood for and that is erased.
    """
    job = new.job
    common = _common(shard_of(job.id), job.owner, job.state, job.key)
    call = call_digest(job.owner, job.fingerprint)
    accepted, lease = to_micros(job.accepted_at), to_micros(new.waiter_until)
    ready = to_micros(job.ready_at)
    header = Header(job.version, job.state, job.attempt, common.key, ready, place or NOTHING)
    facts = (
        f"{accepted} {lease} {new.retry_count} {header.idempotency} {gone or NOTHING} "
        f"{job.id} {job.attempt + 1} {job.body_bytes} {job.tokens} {to_micros(job.deadline)} "
        f"{_held(job)} {header.ready} {job.affinity}"
    )
    own = (keys.record(job.id), keys.payload(job.id), keys.open_calls(common.shard, call))
    more = _more_keys(new, place)
    count = len(own) + len(common.names) + len(more)
    return job_scripts.ACCEPT.call_packed(
        common.slot,
        pack_some(own) + common.packed_names + pack_some(more),
        count,
        pack_some((count, facts, header.record_of(job), sealed)) + common.packed_arguments,
        4 + len(common.arguments),
    )


def _more_keys(new: NewJob, place: str) -> list[str]:
    """Return the keys that few jobs have, in the script's order."""
    more = tag_keys(new.job) if new.job.tags else []
    if new.retry_count:
        more.insert(0, keys.deliveries(shard_of(new.job.id)))
    if place:
        more.insert(0, keys.idempotency(shard_of(new.job.id)))
    return more


class _Common:
    """What the calls that accept an owner's jobs of one batch key share, within a shard."""

    def __init__(self, shard: int, owner: OwnerId, state: JobState, key: BatchKey) -> None:
        self.shard = shard
        self.key = keys.key_digest(key)
        self.names = (
            keys.queue(shard, self.key),
            keys.deadlines(shard, self.key),
            keys.heads(shard),
            keys.batch_keys(shard),
            keys.pending(shard),
            keys.waiting(shard),
            keys.listed(shard, owner, state),
        )
        self.slot = slot_of(self.names[0])
        self.packed_names = pack_some(self.names)
        self.arguments = (owner, self.key, encode_key(key))
        self.packed_arguments = pack_some(self.arguments)


_common = lru_cache(maxsize=4096)(_Common)


@dataclass(frozen=True, slots=True)
class Before:
    """In what stored state and under what batch key a job is believed to be."""

    state: str
    key: str


def likely_before(after: Job) -> Before:
    """Return what the job probably was: wrong costs a second round, and nothing else."""
    called = after.attempt > 0 and after.batch_id is None and after.state.is_terminal
    state = JobState.ESCALATING if called else JobState.QUEUED
    return Before(state, keys.key_digest(after.key))


def replace_call(
    write: JobWrite, before: Before, packed_result: bytes, *, keep: timedelta
) -> Command:
    """Return the command that writes a job which was `before`."""
    after, key = write.after, keys.key_digest(write.after.key)
    day, booked = book_arguments(write.bookings)
    notice = ""
    if after.webhook is not None and after.finalized_at is not None:
        notice = notice_text(to_micros(after.finalized_at), attempts=0)
    return job_scripts.REPLACE.call(
        _replace_names(after, before, key, day),
        after.id,
        after.owner,
        after.version,
        after.state.value,
        after.attempt,
        key,
        encode_key(after.key),
        to_micros(after.ready_at),
        pack_record(after),
        after.key.credential,
        to_micros(after.accepted_at),
        to_micros_or(after.finalized_at, ""),
        int(keep.total_seconds()),
        packed_result,
        *_queue_arguments(after),
        before.state,
        before.key,
        notice,
        day,
        *booked,
    )


def _replace_names(after: Job, before: Before, key: str, day: str) -> list[str]:
    """Return the keys of `REPLACE`, in the order in which the script counts them."""
    shard = shard_of(after.id)
    names = [
        keys.record(after.id),
        keys.result(after.id),
        keys.payload(after.id),
        keys.claims(shard),
        keys.heads(shard),
        keys.batch_keys(shard),
        keys.pending(shard),
        keys.ended(shard),
        keys.escalating(shard),
        keys.listed(shard, after.owner, before.state),
        keys.listed(shard, after.owner, after.state),
        keys.queue(shard, before.key),
        keys.deadlines(shard, before.key),
        keys.queue(shard, key),
        keys.deadlines(shard, key),
    ]
    if after.state is JobState.CANCELLED:
        names += delivery_keys(shard, call_digest(after.owner, after.fingerprint))
    # The script finds these from the end.
    if after.webhook is not None and after.finalized_at is not None:
        names += [keys.notices(shard), keys.notices_due(shard, after.webhook)]
    if day:
        names += ledger_keys(shard, day)
    return names


def _queue_arguments(job: Job) -> Sequence[Argument]:
    return (
        job.body_bytes,
        job.tokens,
        to_micros(job.deadline),
        _held(job),
        job.affinity,
    )


def _held(job: Job) -> int:
    return int(job.answer is AnswerMode.WAIT)


def call_digest(owner: OwnerId, fingerprint: str) -> str:
    """Return what equal calls of an owner share."""
    return keys.digest(owner, fingerprint)


def delivery_keys(shard: int, call: str) -> list[str]:
    """Return the keys that a change of a delivery touches, in the scripts' order."""
    return [
        keys.deliveries(shard),
        keys.open_calls(shard, call),
        keys.flushed_calls(shard, call),
        keys.waiting(shard),
    ]


def tag_keys(job: Job) -> list[str]:
    """Return the lists of the job's tags."""
    shard = shard_of(job.id)
    return [keys.tagged(shard, job.owner, name, value) for name, value in job.tags.items()]


def idempotency_place(owner: OwnerId, key: str) -> str:
    """Return the field of an owner's idempotency key."""
    return keys.digest(owner, key)


def notice_text(owed_since: int, *, attempts: int) -> str:
    """Return a notice as it is stored."""
    return f"{owed_since} {attempts}"


def notice_keys(job: Job) -> list[str]:
    """Return the lists that the job's notice, if it has one, stands in."""
    if job.webhook is None:
        return []
    shard = shard_of(job.id)
    return [keys.notices_due(shard, job.webhook), keys.notices_given_up(shard, job.webhook)]

"""The names of everything that we keep.

All begin with `offramp:`, so that a user of Redis can be confined to them, and all
have a tag in braces, which decides the slot (Redis Cluster specification, "Hash
tags"). The tag of a job and of all that stands beside it is its shard.
"""

import hashlib
from binascii import b2a_base64
from functools import lru_cache
from typing import Final

from proxy.core.ids import SHARDS, BatchId, JobId, OwnerId, shard_of
from proxy.core.lanes import BatchKey
from proxy.stores.codec import encode_key

META: Final = "offramp:{meta}:facts"
WAKEUPS: Final = "offramp:{wakeups}"

BATCHES: Final = "offramp:{batches}:records"
BATCHES_LIVE: Final = "offramp:{batches}:live"
BATCHES_RECENT: Final = "offramp:{batches}:recent"
BATCHES_SETTLED: Final = "offramp:{batches}:settled"
SMALL: Final = "offramp:{batches}:small"

CREDENTIALS: Final = "offramp:{credentials}:ids"
PAUSED: Final = "offramp:{credentials}:paused"

LEASES: Final = "offramp:{leases}:holders"
LEASES_UNTIL: Final = "offramp:{leases}:until"
NOTES: Final = "offramp:{notes}:texts"
UNBATCHABLE: Final = "offramp:{unbatchable}:models"

ALL_SHARDS: Final = range(SHARDS)

_SHARD: Final = tuple(f"offramp:{{{shard:02d}}}:" for shard in ALL_SHARDS)


def digest(*parts: str) -> str:
    """Return 22 characters that stand for the parts."""
    # Length first: no two lists of parts may read the same when joined.
    framed = "".join([f"{len(part)}:{part}" for part in parts])
    hashed = hashlib.sha256(framed.encode("utf-8", "surrogatepass")).digest()
    return b2a_base64(hashed[:16], newline=False)[:22].decode()


@lru_cache(maxsize=4096)
def key_digest(key: BatchKey) -> str:
    """Return what stands for a batch key in names and fields."""
    return digest(encode_key(key))


def record(job_id: JobId) -> str:
    """Name the job's record: a header line for scripts, then the job, packed."""
    return f"{_SHARD[shard_of(job_id)]}job:{job_id}"


def payload(job_id: JobId) -> str:
    """Name the sealed body of the job's call."""
    return f"{_SHARD[shard_of(job_id)]}body:{job_id}"


def result(job_id: JobId) -> str:
    """Name the job's result, its body sealed."""
    return f"{_SHARD[shard_of(job_id)]}result:{job_id}"


def queue(shard: int, key: str) -> str:
    """Name the queue of a batch key, by readiness."""
    return f"{_SHARD[shard]}queue:{key}"


def deadlines(shard: int, key: str) -> str:
    """Name the same queue by deadline."""
    return f"{_SHARD[shard]}due:{key}"


def heads(shard: int) -> str:
    """Name the counters of the shard's queues, by batch key."""
    return f"{_SHARD[shard]}heads"


def batch_keys(shard: int) -> str:
    """Name the batch keys themselves, by their digest."""
    return f"{_SHARD[shard]}keys"


def pending(shard: int) -> str:
    """Name what is not terminal, by owner."""
    return f"{_SHARD[shard]}pending"


def listed(shard: int, owner: OwnerId, state: str) -> str:
    """Name the owner's jobs of one stored state, by acceptance."""
    return f"{_SHARD[shard]}list:{owner}:{state}"


def tagged(shard: int, owner: OwnerId, name: str, value: str) -> str:
    """Name the owner's jobs with one tag, by acceptance."""
    return f"{_SHARD[shard]}tag:{digest(owner, name, value)}"


def ended(shard: int) -> str:
    """Name the terminal jobs, by their end."""
    return f"{_SHARD[shard]}ended"


def escalating(shard: int) -> str:
    """Name the jobs that are called directly now, with their credentials."""
    return f"{_SHARD[shard]}escalating"


def idempotency(shard: int) -> str:
    """Name what idempotency keys stand for."""
    return f"{_SHARD[shard]}idempotency"


def claims(shard: int) -> str:
    """Name the batches that claimed, by custom ID."""
    return f"{_SHARD[shard]}claims"


def items(shard: int, batch_id: BatchId) -> str:
    """Name the items of a batch, in the order of submission."""
    return f"{_SHARD[shard]}items:{batch_id}"


def sums(shard: int, batch_id: BatchId) -> str:
    """Name what a batch has claimed of the shard, in sum."""
    return f"{_SHARD[shard]}sums:{batch_id}"


def filled(shard: int) -> str:
    """Name the batches that hold items of the shard."""
    return f"{_SHARD[shard]}filled"


def ledger(shard: int, day: str) -> str:
    """Name the shard's part of a day's ledger."""
    return f"{_SHARD[shard]}ledger:{day}"


def ledger_days(shard: int) -> str:
    """Name the days that have a ledger."""
    return f"{_SHARD[shard]}ledgers"


def receipt(shard: int, receipt_id: str) -> str:
    """Name the receipt for something that is booked once."""
    return f"{_SHARD[shard]}receipt:{receipt_id}"


def run(shard: int, place: str) -> str:
    """Name the counter of a call within a run."""
    return f"{_SHARD[shard]}run:{place}"


def deliveries(shard: int) -> str:
    """Name what is known of the deliveries that a retry made or claimed, by job."""
    return f"{_SHARD[shard]}deliveries"


def open_calls(shard: int, call: str) -> str:
    """Name the deliveries of equal calls that are not out, by the waiter's lease."""
    return f"{_SHARD[shard]}open:{call}"


def flushed_calls(shard: int, call: str) -> str:
    """Name the deliveries of equal calls that are out, by their last claim."""
    return f"{_SHARD[shard]}flushed:{call}"


def waiting(shard: int) -> str:
    """Name how many deliveries are not out, by owner and the second their lease ends in."""
    return f"{_SHARD[shard]}waiting"


def elsewhere(shard: int, call: str) -> str:
    """Name the other shards that may hold deliveries of equal calls."""
    return f"{_SHARD[shard]}elsewhere:{call}"


def notices(shard: int) -> str:
    """Name what is known of the notices that are owed or given up, by job."""
    return f"{_SHARD[shard]}notices"


def notices_due(shard: int, webhook: str) -> str:
    """Name the notices that a webhook is owed, by when they are due."""
    return f"{_SHARD[shard]}notify:{webhook}"


def notices_given_up(shard: int, webhook: str) -> str:
    """Name the notices that a webhook will not be sent again, by when that was decided."""
    return f"{_SHARD[shard]}unnotified:{webhook}"


def webhook(name: str) -> str:
    """Name the counts of a webhook."""
    return f"offramp:{{webhooks}}:one:{name}"


def credential(credential_id: str) -> str:
    """Name a credential."""
    return f"offramp:{{credentials}}:one:{credential_id}"


def credentials_of(owner: OwnerId, upstream: str) -> str:
    """Name the credentials of an owner at an upstream."""
    return f"offramp:{{credentials}}:of:{digest(owner, upstream)}"

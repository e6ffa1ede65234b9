"""Records of jobs: a line for the scripts, and the job behind it, compressed.

Half of a record is the names of its fields. What repeats stands hardly ever twice in one
record, but in every record. So they are compressed against a sample that all of them
resemble, in 4 us, and take less than half.
"""

import threading
from typing import Final, NamedTuple

from zstandard import (
    DICT_TYPE_RAWCONTENT,
    ZstdCompressionDict,
    ZstdCompressor,
    ZstdDecompressor,
    ZstdError,
)

from proxy.core.errors import StoreCorruptError
from proxy.core.job import Job
from proxy.stores.codec import decode_job, encode_job
from proxy.stores.redis.replies import Reply, as_bytes

SAMPLE: Final = (
    b'"urgent","trickle","interactive","window","flex","gemini","generativelanguage","anthropic",'
    b'"/v1/messages","claude-","/v1/embeddings","/v1/responses","failed","expired","cancelled",'
    b'"batch","soon"],"lane":"batch","answer":"wait","answer":"background","answer":"raise",'
    b'"decided_by":"prefer","decided_by":"rule:","last_reason":"","possible_doubles":1,"failures":1,'
    b'"error_code":"","error_message":"","holder":"","not_before":17,"webhook":"",'
    b'"headers":{"openai-beta":""},"cached_tokens":0,"input_tokens":,"output_tokens":,'
    b'{"v":2,"id":"job_01M8","owner":"","state":"completed","accepted_at":179,"deadline":179,'
    b'"key":["batch","openai","","/v1/chat/completions","gpt-4o-mini",[],"loose"],"lane":"batch",'
    b'"lane_reason":"26h to the deadline","target":"/v1/chat/completions","answer":"job",'
    b'"decided_by":"header","tags":{"":""},"fingerprint":"","body_bytes":1,"tokens":1,'
    b'"affinity":"","batch_id":"offramp_batch_01M8","attempt":1,"finalized_at":179,'
    b'"outcome":{"status_code":200,"usage":{"prompt_tokens":1,"completion_tokens":1,'
    b'"total_tokens":1},"tier":"batch","cost":{"list_nano":1,"paid_nano":1}},"answered_by":1,'
    b'"version":2}'
)
"""Never change it: what was compressed against it can be read with it alone. One that fits
better needs a new schema of the store."""

_LEVEL: Final = -1
"""Higher ones take twice as long, for a tenth less."""


NOTHING: Final = "-"


class Header(NamedTuple):
    """The first line of a record, which scripts read."""

    version: int
    state: str
    attempt: int
    key: str
    ready: int
    idempotency: str

    @classmethod
    def of(cls, record: bytes) -> tuple["Header", bytes]:
        """Return the header of a record, and the job behind it, packed.

        Raises:
            StoreCorruptError: if it is none.
        """
        line, _, packed = record.partition(b"\n")
        try:
            version, state, attempt, key, ready, idempotency = line.decode().split(" ")
            header = cls(int(version), state, int(attempt), key, int(ready), idempotency)
        except ValueError:
            raise StoreCorruptError("a stored job cannot be read") from None
        return header, packed

    def record_of(self, job: Job) -> bytes:
        """Return the record of the job, which this begins."""
        return b"%b\n%b" % (str(self).encode(), pack_record(job))

    def __str__(self) -> str:
        return (
            f"{self.version} {self.state} {self.attempt} {self.key} {self.ready} {self.idempotency}"
        )


class _Compression(threading.local):
    """What each thread has of its own: compressors keep state and must not be shared."""

    def __init__(self) -> None:
        sample = ZstdCompressionDict(SAMPLE, dict_type=DICT_TYPE_RAWCONTENT)
        self.compress = ZstdCompressor(_LEVEL, dict_data=sample).compress
        self.decompress = ZstdDecompressor(dict_data=sample).decompress


_local: Final = _Compression()


def pack_record(job: Job) -> bytes:
    """Return the job as its record holds it."""
    return _local.compress(encode_job(job).encode("utf-8", "surrogatepass"))


def open_record(packed: bytes, claimed_by: str | None = None) -> Job:
    """Return the job that `pack_record` was given, as a claim has changed it.

    Raises:
        StoreCorruptError: if there is none in it, or a newer version's.
    """
    try:
        text = _local.decompress(packed).decode("utf-8", "surrogatepass")
    except (ZstdError, ValueError):
        # Without the cause: it would show contents.
        raise StoreCorruptError("a stored job cannot be read") from None
    return decode_job(text, claimed_by)


def parse_record(record: Reply) -> tuple[Header, Job]:
    """Return a record as it is stored: what a claim makes of it is not in it.

    Raises:
        StoreCorruptError: if it cannot be read.
    """
    header, packed = Header.of(as_bytes(record))
    return header, open_record(packed)

"""Records as they stand in Redis."""

import pytest

from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId, JobId
from proxy.core.job import Assigned, Outcome, Succeeded, advance
from proxy.stores.codec import encode_job
from proxy.stores.redis.records import open_record, pack_record
from tests.helpers.factories import T0, make_job

JOB = make_job(id=JobId("job_0001M844DZG00000000000000016"))

PACKED = bytes.fromhex(
    "28b52ffd60b900c50400a4063030314d383434445a473031362d3135343335323535323838303063726564656e"
    "7469616c66336430623634353364626431633030623433666436326163383461326263303362303363336461643335"
    "316333326639613235383464623661313966373532373032307d0e00b9c486002ed11d1e219be9905028438bf6088b"
    "7b62ea46f4b015a1c388443be20637c2c038d9ad782208"
)


def test_a_record_of_an_earlier_day_can_be_read():
    assert open_record(PACKED) == JOB


def test_a_record_takes_less_than_half_of_its_text():
    ended = advance(
        advance(JOB, Assigned(BatchId("offramp_batch_01M844DZG0000000000000002"))),
        Succeeded(1, T0, Outcome(200, usage={"prompt_tokens": 9, "completion_tokens": 3})),
    )

    for job in (JOB, ended):
        assert open_record(pack_record(job)) == job
        assert len(pack_record(job)) < len(encode_job(job)) / 2


def test_a_record_keeps_half_a_surrogate_pair():
    job = make_job(tags={"team": "\ud83d"})

    assert open_record(pack_record(job)) == job


@pytest.mark.parametrize("packed", [b"", b"{}", PACKED[:-1], b"\n" + PACKED])
def test_what_is_no_record_is_not_read(packed):
    with pytest.raises(StoreCorruptError, match="cannot be read") as refused:
        open_record(packed)

    assert refused.value.__suppress_context__

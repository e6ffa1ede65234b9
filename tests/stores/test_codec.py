"""Records to text and back."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.batch import Batch
from proxy.core.errors import StoreCorruptError
from proxy.core.ids import BatchId
from proxy.core.job import ENDED, Assigned, Job, JobState, advance
from proxy.core.lanes import BatchKey
from proxy.stores.codec import (
    decode_batch,
    decode_job,
    decode_key,
    encode_batch,
    encode_ending,
    encode_job,
    encode_key,
    from_micros,
    to_micros,
)
from tests.helpers.factories import T0, make_batch, make_job, make_key

st.register_type_strategy(datetime, st.datetimes(timezones=st.just(UTC)))
st.register_type_strategy(str, st.text(st.characters(exclude_categories=()), max_size=9))


@given(st.from_type(Job))
def test_any_job_comes_back_as_it_was(job):
    assert decode_job(encode_job(job)) == job


@given(st.from_type(Batch))
def test_any_batch_comes_back_as_it_was(batch):
    assert decode_batch(encode_batch(batch)) == batch


@given(st.from_type(BatchKey), st.from_type(BatchKey))
def test_keys_have_equal_texts_exactly_if_they_are_equal(one, two):
    assert decode_key(encode_key(one)) == one
    assert (encode_key(one) == encode_key(two)) == (one == two)


@given(st.from_type(Job))
def test_a_claimed_job_reads_as_if_it_had_been_assigned(job):
    queued = replace(job, state=JobState.QUEUED)

    assert decode_job(encode_job(queued), "b") == advance(queued, Assigned(BatchId("b")))


@given(st.from_type(Job), st.from_type(Job))
def test_an_ended_job_reads_as_its_record_and_its_end_together(before, after):
    ended = replace(before, **{name: getattr(after, name) for name in ENDED})

    assert decode_job(encode_job(before), None, encode_ending(after)) == ended


def test_an_end_of_a_newer_version_is_refused():
    job = make_job()
    newer = encode_ending(job).replace('"v":2', '"v":3')

    with pytest.raises(StoreCorruptError, match="newer version"):
        decode_job(encode_job(job), None, newer)


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_are_exact_and_ordered(at):
    assert from_micros(to_micros(at)) == at
    assert to_micros(at + timedelta(microseconds=1)) == to_micros(at) + 1


def test_a_time_of_another_zone_is_the_same_time():
    elsewhere = T0.astimezone(timezone(timedelta(hours=5)))

    assert to_micros(elsewhere) == to_micros(T0)


def test_records_are_short_ascii_without_defaults():
    text = encode_job(make_job(target="/v1/\udcff"))

    assert text.isascii()
    assert not {"outcome", "twins", "version", "failures"} & set(json.loads(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"v":1}',
        encode_job(make_job()).replace('"job"', '"mail"'),
        encode_job(make_job()).replace('"tokens"', '"token"'),
        encode_job(make_job())[:-1],
        encode_job(make_job()).replace('"deadline":', '"deadline":999999999'),
        encode_batch(make_batch()),
    ],
)
def test_a_text_that_is_no_job_is_refused(text):
    with pytest.raises(StoreCorruptError):
        decode_job(text)


def test_a_time_beyond_all_times_is_corrupt():
    text = encode_job(make_job())
    micros = str(to_micros(make_job().deadline))

    with pytest.raises(StoreCorruptError):
        decode_job(text.replace(micros, micros * 2))


def test_a_record_of_a_newer_version_is_refused_with_a_hint():
    newer = encode_job(make_job()).replace('"v":2', '"v":3')

    with pytest.raises(StoreCorruptError, match="newer version") as refused:
        decode_job(newer)

    assert refused.value.hint


def test_a_refusal_does_not_show_the_record():
    broken = encode_job(make_job(tags={"canary": "canary"})).replace('"tokens"', '"token"')

    with pytest.raises(StoreCorruptError) as refused:
        decode_job(broken)

    assert "canary" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_key_with_headers_comes_back_as_it_was():
    key = make_key(headers=(("anthropic-beta", "a,b"), ("anthropic-version", "2023-06-01")))

    assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize("text", ['["canary"', '{"canary": 1}', "[1]"])
def test_a_key_that_cannot_be_read_is_corrupt_and_not_shown(text):
    with pytest.raises(StoreCorruptError) as error:
        decode_key(text)

    assert "canary" not in str(error.value)
    assert error.value.__cause__ is None

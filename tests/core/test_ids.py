"""Which texts are IDs of ours: all that we mint, and nothing that looks similar."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from proxy.core.ids import (
    RANDOM_BYTES,
    SHARDS,
    JobId,
    custom_id,
    find_job_id,
    is_job_id,
    mint_batch_id,
    mint_job_id,
    parse_custom_id,
    shard_for,
    shard_of,
)
from tests.helpers.factories import T0, IdFactory

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

job_ids = st.builds(
    lambda now, shard, random: mint_job_id(now, shard=shard, random=random),
    st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(0, SHARDS - 1),
    st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES),
)


@settings(max_examples=40)
@given(job_ids)
def test_every_minted_id_is_ours(job_id: JobId) -> None:
    assert is_job_id(job_id)
    assert find_job_id(job_id) == job_id
    assert re.fullmatch(r"job_[01][0-9A-Z]{27}", job_id)


@settings(max_examples=40)
@given(job_ids, st.integers(4, 31), st.sampled_from(ALPHABET))
def test_any_single_wrong_character_is_found(job_id: JobId, place: int, wrong: str) -> None:
    assume(job_id[place] != wrong)

    assert not is_job_id(job_id[:place] + wrong + job_id[place + 1 :])


@settings(max_examples=40)
@given(job_ids, st.integers(4, 30))
def test_swapped_neighbours_are_found_but_for_one_pair(job_id: JobId, place: int) -> None:
    first, second = job_id[place], job_id[place + 1]
    # The one blind spot of Luhn's scheme: its first and last digit side by side.
    assume(first != second and {first, second} != {"0", "Z"})

    assert not is_job_id(job_id[:place] + second + first + job_id[place + 2 :])


def test_only_one_pair_of_neighbours_is_not_told_from_its_swap() -> None:
    around = IdFactory().job()

    def check_character(pair: str) -> str:
        # Both stand in the middle, so that only their order differs.
        body = around[:10] + pair + around[12:-1]
        return next(check for check in ALPHABET if is_job_id(body + check))

    checks = {(one, two): check_character(one + two) for one in ALPHABET for two in ALPHABET}

    blind = {
        (one, two) for one, two in checks if one < two and checks[one, two] == checks[two, one]
    }
    assert blind == {("0", "Z")}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "job_",
        "job_abc",
        "job_0123456789",
        "batch_67890abcdef",
        "batch_abc123",
        "resp_68af4030592c81938ec0a5fbab4a3e9f05438e46b5f69a3b",
        "chatcmpl-B9MBs8CjcLOU2nLn4n570S5qMJKcT",
        "msgbatch_013Zva2CMHLNnXjNJJKqJ2EF",
        "file-abc123",
        "ftjob-abc123",
        "JOB_01ABCDEFGHJKMNPQRSTVWXYZ0123",
    ],
)
def test_ids_of_providers_are_not_ours(text: str) -> None:
    assert not is_job_id(text)
    assert find_job_id(text) is None
    assert find_job_id(f"/v1/batches/{text}") is None


@settings(max_examples=40)
@given(job_ids, st.sampled_from("0aZ_-"))
def test_an_id_inside_a_longer_word_is_not_ours(job_id: JobId, more: str) -> None:
    assert not is_job_id(job_id + more)
    assert find_job_id(f"/v1/jobs/{job_id}{more}") is None


@settings(max_examples=40)
@given(job_ids)
def test_an_id_in_the_wrong_case_or_cut_short_is_not_ours(job_id: JobId) -> None:
    assert not is_job_id(job_id[:-1])
    assert not is_job_id(job_id[4:])
    lowered = "job_" + job_id[4:].lower()
    assert lowered == job_id or not is_job_id(lowered)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/{}",
        "/v1/jobs/{}/result?wait=60",
        "/openai/v1/responses/{}",
        "/v1/responses/{}/cancel",
        "/anything/jobs/{}#x",
        "/v1/chat/completions/{}?x=job_abc",
        "/x?id={}&y=1",
        "/job_abc/{}",
    ],
)
def test_an_id_is_found_anywhere_in_a_path(path: str) -> None:
    job_id = IdFactory().job()

    assert find_job_id(path.format(job_id)) == job_id


def test_a_candidate_that_fails_its_check_does_not_hide_the_right_one() -> None:
    right = IdFactory().job()
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")

    assert find_job_id(f"/v1/jobs/{wrong}/{right}") == right
    assert find_job_id(f"/v1/jobs/{wrong}") is None


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_shard_can_be_read_from_the_id(shard: int) -> None:
    assert shard_of(IdFactory().job(shard=shard)) == shard


def test_a_place_has_the_same_shard_for_ever_and_places_are_spread() -> None:
    shards = [shard_for(f"place-{n}") for n in range(640)]

    assert shard_for("place-0") == 13, "a store would look for what is known in another shard"
    assert set(shards) == set(range(SHARDS))


def test_ids_of_a_shard_sort_by_time() -> None:
    ids = IdFactory()
    minted = [ids.job(T0 + timedelta(milliseconds=n)) for n in range(50)]
    batches = [ids.batch(T0 + timedelta(milliseconds=n)) for n in range(50)]

    assert sorted(minted) == minted
    assert sorted(batches) == batches


def test_ids_of_one_moment_differ_by_their_random_bits() -> None:
    drawn = [
        bytes(place) + bytes([bits]) + bytes(RANDOM_BYTES - 1 - place)
        for place in range(RANDOM_BYTES)
        for bits in range(1, 32)
    ]

    ids = {mint_job_id(T0, shard=0, random=random) for random in drawn}
    batches = {mint_batch_id(T0, random=random) for random in drawn}

    assert len(ids) == len(batches) == 15 * 31


def test_every_character_of_an_id_is_equally_likely() -> None:
    minted = [mint_job_id(T0, shard=0, random=bytes([byte] * RANDOM_BYTES)) for byte in range(256)]

    assert all(
        Counter(job_id[place] for job_id in minted) == dict.fromkeys(ALPHABET, 8)
        for place in range(16, 31)
    )


def test_a_batch_id_is_no_job_id_and_fits_into_metadata() -> None:
    batch_id = IdFactory().batch()

    assert re.fullmatch(r"offramp_batch_[0-9A-Z]{25}", batch_id)
    assert find_job_id(batch_id) is None


@settings(max_examples=40)
@given(job_ids, st.integers(1, 10**9))
def test_a_custom_id_suits_the_strictest_provider_and_comes_back(job_id: JobId, n: int) -> None:
    name = custom_id(job_id, n)

    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name)
    assert parse_custom_id(name) == (job_id, n)


@pytest.mark.parametrize(
    "form",
    ["{}", "{}-", "{}-x", "{}--1", "{}-\u0661", "{}-\u00b2", " {}-1", "{}0-1", "request-1", ""],
)
def test_a_name_that_we_cannot_have_issued_is_nobodys(form: str) -> None:
    assert parse_custom_id(form.format(IdFactory().job())) is None


@settings(max_examples=50)
@given(st.text())
@example("job_-1")
def test_no_text_breaks_the_parser(text: str) -> None:
    parse_custom_id(text)
    find_job_id(text)

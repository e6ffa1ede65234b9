from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.fields import (
    LONGEST_DEADLINE,
    MAX_KEY_LENGTH,
    MAX_TAGS,
    Run,
    Tag,
    key_problem,
    read_deadline,
    read_name,
    read_read_timeout,
    read_retry_count,
    read_run,
    read_tag,
    read_tags,
    read_time,
)
from tests.policies.facts import NOW


@pytest.mark.parametrize("tag", Tag)
def test_a_tag_is_read_in_any_case(tag):
    assert {read_tag(text) for text in (tag.lower(), tag.upper(), tag.title())} == {tag}


@pytest.mark.parametrize("text", ["", "yes", "1", "job,wait", "tru"])
def test_an_unknown_tag_is_refused_with_all_that_there_are(text):
    with pytest.raises(ValueError, match="true, job, wait, background, raise, false"):
        read_tag(text)


def test_a_deadline_is_a_duration_or_a_time():
    assert read_deadline("90m", NOW) == timedelta(minutes=90)
    assert read_deadline("2026-11-24T06:00:00Z", NOW) == datetime(2026, 11, 24, 6, tzinfo=UTC)
    assert read_deadline("2026-11-24t07:00:00.5+01:00", NOW) == datetime(
        2026, 11, 24, 6, 0, 0, 500_000, tzinfo=UTC
    )
    assert read_deadline("2026-11-24 06:00:00.123456789z", NOW) == datetime(
        2026, 11, 24, 6, 0, 0, 123_456, tzinfo=UTC
    )


def test_thirty_days_are_not_too_far():
    assert read_deadline("30d", NOW) == LONGEST_DEADLINE
    assert read_deadline("2026-12-23T12:00:00Z", NOW) == NOW + LONGEST_DEADLINE


@pytest.mark.parametrize(
    "text",
    [
        "", "0s", "31d", "-1h", "soon", "1h30", "2026-11-23T12:00:00Z", "2026-11-23T11:59:59Z",
        "2026-11-24T06:00:00", "2026-11-24", "2026-W48-2", "20261124T060000Z",
        "2026-13-24T06:00:00Z", "2026-11-24T06:00:60Z", "2026-12-23T12:00:01Z",
        "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_a_deadline_that_is_unreadable_past_or_too_far_is_refused(text):
    with pytest.raises(ValueError, match="in the future, within 30 days"):
        read_deadline(text, NOW)


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_is_accepted_exactly_if_it_lies_within_thirty_days(time):
    time = time.replace(microsecond=0)
    offset = time.utcoffset()
    if offset is None or offset.total_seconds() % 60:
        return  # ancient local times, which RFC 3339 cannot write
    try:
        read = read_deadline(time.isoformat(), NOW)
    except ValueError:
        assert not timedelta() < time - NOW <= LONGEST_DEADLINE
    else:
        assert read == time
        assert timedelta() < time - NOW <= LONGEST_DEADLINE


def test_a_time_without_an_offset_is_refused():
    assert read_time("2020-01-01T00:00:00Z") == datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="with an offset"):
        read_time("2020-01-01T00:00:00")


def test_tags_are_read_with_their_blanks_trimmed():
    assert read_tags("team=etl, run=42,,x.y-z_ = a b/c:d@e+f#g ,") == {
        "team": "etl",
        "run": "42",
        "x.y-z_": "a b/c:d@e+f#g",
    }
    assert read_tags("a=1, a=1") == {"a": "1"}


@pytest.mark.parametrize(
    "text",
    [
        "", ",", "team", "=x", "team=", "a=1,a=2", "te am=x", 'a="x"', "a=ü", "a=b=c",
        f"{'n' * 65}=x", f"n={'x' * 129}", ",".join(f"t{n}=x" for n in range(MAX_TAGS + 1)),
    ],
)  # fmt: skip
def test_tags_that_cannot_be_read_are_refused(text):
    with pytest.raises(ValueError, match="name=value"):
        read_tags(text)


def test_as_many_and_as_long_tags_as_allowed_are_read():
    tags = {f"{n:064}": "x" * 128 for n in range(MAX_TAGS)}

    assert read_tags(",".join(f"{name}={value}" for name, value in tags.items())) == tags


@pytest.mark.parametrize("text", ["", "https://x.example/", "a b", "x" * 65])
def test_a_webhook_is_a_name_and_never_an_url(text):
    assert read_name("done-1.x_y") == "done-1.x_y"
    with pytest.raises(ValueError, match="never a URL"):
        read_name(text)


@pytest.mark.parametrize(
    "text", ["nightly; session=s1", "nightly;session=s1", "nightly ;\tsession=s1"]
)
def test_a_run_may_say_which_session_of_it_calls(text):
    assert read_run(text) == Run("nightly", "s1")


@pytest.mark.parametrize(
    "text", ["", "a b", "x" * 129, "ü", "a;", "a; session=", "a; other=b", "a; session=b; c=d"]
)
def test_a_run_is_a_short_plain_id(text):
    assert read_run("2026-11-23T12:00/eval#3") == Run("2026-11-23T12:00/eval#3")
    with pytest.raises(ValueError, match="128"):
        read_run(text)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([], None),
        (["k"], None),
        (["k", "k"], None),
        (["x" * MAX_KEY_LENGTH], None),
        (["k", "l"], "differ"),
        ([""], "1 to 255"),
        (["x" * (MAX_KEY_LENGTH + 1)], "1 to 255"),
    ],
)
def test_an_idempotency_key_is_one_and_bounded(keys, problem):
    found = key_problem(keys)

    assert (found is None) == (problem is None)
    assert problem is None or problem in (found or "")


@pytest.mark.parametrize(
    ("value", "count"),
    [(None, 0), (b"0", 0), (b"2", 2), (b"-1", 0), (b"x", 0), (b"", 0), (b"99999", 1000)],
)
def test_a_retry_count_that_is_no_count_is_zero(value, count):
    assert read_retry_count(value) == count


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"600", 600), (b"600.0", 600), (b"0.5", 3), (b"1200", 600), (b"45.5", 45.5)],
)
def test_a_read_timeout_is_clamped(value, seconds):
    assert read_read_timeout(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", [None, b"", b"nan", b"inf", b"-3", b"1e2", b"NOT_GIVEN"])
def test_a_read_timeout_that_is_no_number_is_none(value):
    assert read_read_timeout(value) is None

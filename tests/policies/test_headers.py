from datetime import timedelta

import pytest

from policies.fields import Run, Tag
from policies.headers import (
    NOTHING_ASKED,
    Asked,
    HeaderError,
    header_opinion,
    read_headers,
    with_usual,
)
from policies.model import Answer, Defer, Forward, Reject
from policies.prefer import Preferences
from tests.policies.facts import NOW, make_facts, raw, unread

STREAM = {"model": "m", "stream": True}
BACKGROUND = {"model": "m", "background": True}
LOUD = ["job", "raise", "background"]


def asked(**headers):
    return read_headers(raw({k.replace("_", "-"): v for k, v in headers.items()}), now=NOW)


def opinion(tag, facts, default=Answer.JOB):
    return header_opinion(asked(X_Deferrable=tag), facts, default_answer=default)


def test_usual_headers_fill_only_what_the_call_leaves_open():
    usual = raw({"X-Deferrable": "wait", "X-Deferrable-Run": "r"})

    assert with_usual(raw({"A": "b"}), ()) == raw({"A": "b"})
    assert with_usual(raw({"A": "b"}), usual) == raw({"A": "b"}) + usual
    assert with_usual(raw({"x-deferrable": "job"}), usual)[1:] == usual[1:]
    assert with_usual(raw({"Prefer": "respond-async"}), usual)[1:] == usual[1:]


def test_a_call_without_these_headers_asks_for_nothing():
    headers = raw({"Host": "h", "X-Request-Id": "1", "Pragma": "", "If-Match": "*", "": "x"})

    assert read_headers(headers, now=NOW) is NOTHING_ASKED
    assert not NOTHING_ASKED.defers


def test_everything_that_can_be_asked_is_read_whatever_the_case_of_the_names():
    headers = {
        "X-DEFERRABLE": " Wait ",
        "x-deferrable-deadline": "6h",
        "X-Deferrable-Tags": "team=etl, run=42",
        "x-Deferrable-Webhook": "done",
        "X-Deferrable-Run": "r1",
        "idempotency-KEY": "k",
        "PREFER": "respond-async, wait=5",
        "X-Stainless-Lang": "python",
        "X-Stainless-Retry-Count": "2",
        "X-Stainless-Read-Timeout": "30",
        "X-Stainless-Timeout": "60",
    }

    assert read_headers(raw(headers), now=NOW) == Asked(
        tag=Tag.WAIT,
        preferences=Preferences(True, timedelta(seconds=5)),
        deadline=timedelta(hours=6),
        tags={"team": "etl", "run": "42"},
        webhook="done",
        run=Run("r1"),
        idempotency_key="k",
        retry_count=2,
        read_timeout=timedelta(seconds=30),
        typed_sdk=True,
    )


def test_a_raw_sdk_call_is_not_typed_and_its_other_timeout_counts():
    read = asked(X_Stainless_Lang="js", X_Stainless_Raw_Response="true", X_Stainless_Timeout="60")

    assert (read.typed_sdk, read.raw_sdk) == (False, True)
    assert read.read_timeout == timedelta(seconds=60)


def test_an_sdk_that_reads_the_choices_itself_says_so():
    parse = {"X_Stainless_Lang": "python", "X_Stainless_Helper_Method": "chat.completions.parse"}

    assert asked(**parse).parsed_at_once
    assert not asked(**parse, X_Stainless_Raw_Response="true").parsed_at_once
    assert not asked(X_Stainless_Helper_Method="chat.completions.stream").parsed_at_once


@pytest.mark.parametrize("helper", ["messages.parse", "beta.messages.parse", "mcp, messages.parse"])
def test_anthropics_sdk_says_that_it_reads_the_text_itself_among_its_helpers(helper):
    assert asked(X_Stainless_Lang="python", X_Stainless_Helper=helper).parsed_at_once
    assert not asked(X_Stainless_Lang="python", X_Stainless_Helper="mcp").parsed_at_once


def test_googles_sdk_says_how_long_it_waits_in_a_header_of_its_own():
    read = asked(X_Server_Timeout="9")

    assert (read.typed_sdk, read.read_timeout) == (False, timedelta(seconds=9))


@pytest.mark.parametrize(
    ("header", "value", "allowed"),
    [
        ("X-Deferrable", "maybe", "true, job"),
        ("X-Deferrable", "", "true, job"),
        ("X-Deferrable-Deadline", "0s", "RFC 3339"),
        ("X-Deferrable-Deadline", "2026-11-24T06:00:00", "an offset, such as 2026-11-24T06:00:00Z"),
        ("X-Deferrable-Tags", "team", "name=value"),
        ("X-Deferrable-Webhook", "https://evil.example", "never a URL"),
        ("X-Deferrable-Run", "a b", "128"),
    ],
)
def test_a_bad_value_names_the_header_and_what_is_allowed(header, value, allowed):
    with pytest.raises(HeaderError) as caught:
        read_headers(raw({header.lower(): value}), now=NOW)

    assert (caught.value.header, caught.value.value) == (header, value)
    assert allowed in caught.value.allowed
    assert header in str(caught.value)


def test_a_header_of_ours_that_does_not_exist_is_refused():
    with pytest.raises(HeaderError, match="allowed: the headers X-Deferrable, X-Deferrable-Deadl"):
        asked(X_Deferrable_Dealine="6h")


def test_a_bad_value_is_echoed_short_and_printable():
    with pytest.raises(HeaderError) as caught:
        asked(X_Deferrable="\x1b[31m" + "é" * 500)

    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert str(caught.value).count("...") == 1
    assert "u2026" not in str(caught.value)


def test_two_values_that_differ_are_refused_and_two_that_agree_are_one():
    twice = ((b"x-deferrable", b"job"), (b"X-Deferrable", b"JOB "))
    differ = ((b"x-deferrable", b"job"), (b"X-Deferrable", b"false"))

    assert read_headers(twice, now=NOW).tag is Tag.JOB
    with pytest.raises(HeaderError, match="two that differ"):
        read_headers(differ, now=NOW)


def test_a_bad_key_is_no_error_as_long_as_the_call_is_forwarded():
    keys = ((b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b"))

    read = read_headers(keys, now=NOW)

    assert (read.idempotency_key, read.defers) == ("a", False)
    assert read.idempotency_problem is not None


@pytest.mark.parametrize(
    ("headers", "defers"),
    [
        ({"X_Deferrable": "job"}, True),
        ({"X_Deferrable": "wait", "Prefer": "return=minimal"}, True),
        ({"Prefer": "respond-async"}, True),
        ({"X_Deferrable": "false", "Prefer": "respond-async"}, False),
        ({"Prefer": "wait=20"}, False),
        ({"X_Deferrable_Deadline": "6h", "X_Deferrable_Tags": "a=b"}, False),
        ({"X_Deferrable_Webhook": "w", "X_Deferrable_Run": "r", "Idempotency_Key": "k"}, False),
    ],
)
def test_only_a_tag_or_respond_async_asks_to_defer(headers, defers):
    read = asked(**headers)
    decided = header_opinion(read, make_facts(), default_answer=Answer.JOB)

    assert read.defers is defers
    assert isinstance(decided, Defer) is defers


def test_false_forwards_without_reading_the_body_and_beats_prefer():
    read = asked(X_Deferrable="false", Prefer="respond-async")

    decided = header_opinion(read, make_facts(unread), default_answer=Answer.JOB)

    assert isinstance(decided, Forward)
    assert decided.decided_by == "header:x-deferrable"


@pytest.mark.parametrize(
    ("tag", "default", "answer"),
    [
        ("job", Answer.WAIT, Answer.JOB),
        ("wait", Answer.JOB, Answer.WAIT),
        ("raise", Answer.JOB, Answer.RAISE),
        ("true", Answer.JOB, Answer.JOB),
        ("true", Answer.WAIT, Answer.WAIT),
        ("true", Answer.BACKGROUND, Answer.JOB),
    ],
)
def test_a_tag_says_how_to_answer_and_true_is_the_default(tag, default, answer):
    decided = opinion(tag, make_facts(), default)

    assert isinstance(decided, Defer)
    assert decided.answer is answer


@pytest.mark.parametrize(("tag", "default"), [("background", "job"), ("true", "background")])
def test_background_is_for_responses(tag, default):
    decided = opinion(tag, make_facts(path="/v1/responses"), Answer(default))

    assert isinstance(decided, Defer)
    assert decided.answer is Answer.BACKGROUND


def test_background_elsewhere_is_refused():
    decided = opinion("background", make_facts())

    assert isinstance(decided, Reject)
    assert decided.status == 400
    assert "/v1/responses" in decided.message


@pytest.mark.parametrize("tag", [*LOUD, "true"])
def test_a_stream_cannot_be_answered_with_a_job(tag):
    decided = opinion(tag, make_facts(STREAM, path="/v1/responses"))

    assert isinstance(decided, Reject)
    assert decided.status == 400
    assert "stream" in decided.message


def test_a_stream_can_be_held():
    assert isinstance(opinion("wait", make_facts(STREAM)), Defer)
    assert isinstance(opinion("true", make_facts(STREAM), Answer.WAIT), Defer)


@pytest.mark.parametrize("tag", LOUD)
def test_a_post_that_cannot_run_later_is_refused_if_a_job_was_asked_for(tag):
    decided = opinion(tag, make_facts(unread, obstacle="uploads cannot be deferred"))

    assert isinstance(decided, Reject)
    assert decided.status == 400
    assert "uploads cannot be deferred" in decided.message


@pytest.mark.parametrize("tag", ["true", "wait"])
def test_a_post_that_cannot_run_later_is_otherwise_forwarded(tag):
    decided = opinion(tag, make_facts(unread, obstacle="uploads cannot be deferred"))

    assert isinstance(decided, Forward)
    assert "uploads cannot be deferred" in decided.reason


@pytest.mark.parametrize("tag", [tag for tag in Tag if tag is not Tag.FALSE])
def test_a_tag_on_everything_forwards_what_is_no_post(tag):
    facts = make_facts(unread, method="GET", obstacle="GET calls cannot be deferred")

    assert isinstance(opinion(tag, facts), Forward)


@pytest.mark.parametrize(
    ("body", "reason"), [(BACKGROUND, "in the background"), (None, "not a JSON object")]
)
def test_a_body_can_bar_a_call_too(body, reason):
    refused, forwarded = opinion("job", make_facts(body)), opinion("wait", make_facts(body))

    assert isinstance(refused, Reject)
    assert reason in refused.message
    assert isinstance(forwarded, Forward)
    assert reason in forwarded.reason


def test_respond_async_is_a_job_held_for_as_long_as_asked():
    read = asked(Prefer="respond-async, wait=20", X_Deferrable_Deadline="6h")

    decided = header_opinion(read, make_facts(), default_answer=Answer.WAIT)

    assert decided == Defer(
        answer=Answer.JOB,
        decided_by="header:prefer",
        reason="the caller asked for it (Prefer: respond-async, wait=20)",
        deadline=timedelta(hours=6),
        hold=timedelta(seconds=20),
    )


@pytest.mark.parametrize(
    "facts", [make_facts(STREAM), make_facts(BACKGROUND), make_facts(unread, obstacle="no")]
)
def test_respond_async_is_a_wish_and_never_an_error(facts):
    decided = header_opinion(asked(Prefer="respond-async"), facts, default_answer=Answer.JOB)

    assert isinstance(decided, Forward)
    assert decided.decided_by == "header:prefer"


def test_the_tag_beats_prefer():
    read = asked(X_Deferrable="wait", Prefer="respond-async, wait=20")

    decided = header_opinion(read, make_facts(), default_answer=Answer.JOB)

    assert isinstance(decided, Defer)
    assert (decided.answer, decided.hold) == (Answer.WAIT, None)

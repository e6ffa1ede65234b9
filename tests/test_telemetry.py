"""Log lines and metrics: closed lists, no credential, nothing that waits."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from proxy.core.batch import BatchState
from proxy.core.lanes import Lane
from proxy.core.plan import Head
from proxy.telemetry import EVENTS, METRICS, Metrics, UnlistedEventError, render
from proxy.telemetry.logs import Line, LineWriter, _Bridge, processors, set_up_logging
from proxy.telemetry.metric_list import Kind
from proxy.telemetry.redact import HIDDEN, redacted
from tests.helpers.factories import T0, make_batch, make_key

CANARIES = [
    "sk-proj-canary0123456789",
    "sk-ant-api03-canary_0123-456789",
    "gsk_canary0123456789",
    "AIzaSyCanary0123456789012345",
    "ya29.canary-0123456789",
    "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5",
    "eyJhbGciOi.eyJjYW5hcnkiOjF9.c2lnbmF0dXJl",
]


def logged(*, strict=True, for_people=False):
    """Return a logger and the bytes that it has written."""
    stream = io.BytesIO()
    writer = LineWriter(stream)
    log = structlog.wrap_logger(
        writer,
        processors=processors(for_people=for_people, strict=strict),
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
    )

    def written():
        writer.flush()
        return stream.getvalue()

    return log, written


def test_an_event_is_one_json_line_with_level_and_time():
    log, written = logged()

    log.info("batch.submitted", batch_id="b1", jobs=12, waited=timedelta(seconds=3))

    (line,) = written().splitlines()
    facts = json.loads(line)
    time = facts.pop("timestamp")
    assert time.endswith("Z")
    assert facts == {
        "event": "batch.submitted",
        "level": "info",
        "batch_id": "b1",
        "jobs": 12,
        "waited": "0:00:03",
    }


def test_a_fact_that_cannot_be_written_loses_its_line_alone_and_that_is_told():
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    log, written = logged()

    log.info("batch.submitted", batch_id=Unspeakable())
    log.info("batch.submitted", batch_id="b1")

    last, dropped = map(json.loads, written().splitlines())
    assert last["batch_id"] == "b1"
    assert (dropped["event"], dropped["lines"]) == ("log.dropped", 1)


def test_a_line_with_facts_written_before_is_like_any_other():
    def size(of: int) -> dict[str, float | str | None]:
        return {"bytes_up": of}

    stream = io.BytesIO()
    before = structlog.get_config()
    writer = set_up_logging(form="json", stream=stream, bridge=False)
    try:
        line = Line("call.forwarded", size, path="/a sk-canary-01234")
        line.info(7)
        writer.flush()
        with structlog.testing.capture_logs() as seen:
            line.info(8)
    finally:
        structlog.configure(**before)

    facts = json.loads(stream.getvalue())
    assert facts.pop("timestamp").endswith("Z")
    assert facts == {"event": "call.forwarded", "level": "info", "path": "/a ***", "bytes_up": 7}
    assert [one["bytes_up"] for one in seen] == [8]


def test_an_unlisted_event_raises_where_it_is_strict():
    log, _ = logged(strict=True)

    with pytest.raises(UnlistedEventError, match=r"batch\.invented"):
        log.info("batch.invented")


def test_an_unlisted_event_loses_its_name_but_not_its_line_in_production():
    log, written = logged(strict=False)

    unlisted = f"failed for {CANARIES[0]}"
    log.warning(unlisted, batch_id="b1")

    facts = json.loads(written())
    assert (facts["event"], facts["batch_id"]) == ("event.unlisted", "b1")


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_every_event_is_a_noun_and_one_word_more(name):
    noun, dot, happened = name.partition(".")
    assert dot
    assert noun.isidentifier()
    assert happened.isidentifier()


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("for_people", [False, True])
def test_no_form_of_a_credential_leaves_in_a_line(canary, for_people):
    log, written = logged(for_people=for_people)

    try:
        raise ValueError(f"refused: {canary}")  # noqa: TRY301
    except ValueError:
        log.exception(
            "step.failed",
            error=f"header Bearer {canary} is bad",
            url=f"https://user:{canary}@host/v1?key={canary}&a=1",
            headers={"Authorization": canary, "nested": [{"x-api-key": canary}]},
            raw=canary.encode(),
            anything=Exception(canary),
        )

    assert b"step.failed" in written()
    assert b"ValueError" in written()
    assert canary.encode() not in written()


def test_what_begins_like_a_token_again_and_again_is_read_once():
    # Read to its end from each beginning, this would take minutes.
    begun = "eyJ-" * 25

    assert redacted(f"of {begun} and more") == f"of {HIDDEN} and more"
    assert redacted("eyJ-" * 50_000) == HIDDEN
    assert redacted("eyJ is short") == "eyJ is short"


def test_of_a_text_of_megabytes_the_beginning_is_looked_through():
    many = "sk-canary0123456789 " * 10_000

    assert redacted(many) == HIDDEN
    assert str(redacted("words " * 4_000 + many)).startswith("words words")
    assert "canary" not in str(redacted("words " * 4_000 + many))


@pytest.mark.parametrize("for_people", [False, True])
def test_no_name_that_a_caller_chose_fills_the_log_or_breaks_it(for_people):
    log, written = logged(for_people=for_people)

    log.info("call.deferred", model="\ud800" + "m" * 1_000_000, tags=["x" * 1_000_000])

    assert b"mmm" in written()
    assert len(written()) < 64 * 1024


def test_a_terminal_obeys_nothing_that_a_caller_chose():
    log, written = logged(for_people=True)

    try:
        raise ValueError("no \x1b[2J")  # noqa: TRY301
    except ValueError:
        log.exception("step.failed", model="m\x1b]0;x\x07\x9b31m\u2028x", tags=["\x1b[2J"])

    colours = re.compile(r"\x1b\[\d*m")
    shown = colours.sub("", written().decode())
    assert "ValueError" in shown
    assert shown.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "name",
    ["authorization", "X-Api-Key", "api_key", "password", "client_secret", "admin_token", "Cookie"],
)
def test_a_fact_named_like_a_credential_is_hidden_whatever_it_looks_like(name):
    log, written = logged()

    log.info("instance.started", **{name: "correct horse battery staple"})

    assert json.loads(written())[name] == "***"


def test_counts_of_tokens_and_ids_of_credentials_are_kept():
    log, written = logged()

    log.info("batch.sealed", tokens=1200, credential="Kx9_hashed", max_token=3)

    facts = json.loads(written())
    assert (facts["tokens"], facts["credential"], facts["max_token"]) == (1200, "Kx9_hashed", 3)


def test_bytes_are_never_written_only_counted():
    log, written = logged()

    log.info("call.forwarded", body=b"a prompt")

    assert json.loads(written())["body"] == "<8 bytes>"


def test_lines_are_dropped_and_counted_while_the_reader_does_not_read():
    stream = io.BytesIO()
    stuck = LineWriter(stream, lines_max=2)
    # The thread cannot write while this holds, as with a pipe that is full.
    with stuck._writing:
        for number in range(5):
            stuck.write(f"line {number}")

    stuck.flush()

    lines = stream.getvalue().splitlines()
    assert lines[:2] == [b"line 0", b"line 1"]
    told = json.loads(lines[2])
    # With the time, as any other: what reads the log may drop a line that has none.
    assert told.pop("timestamp").endswith("Z")
    assert told == {"event": "log.dropped", "level": "warning", "lines": 3}


def test_a_line_leaves_without_anyone_flushing():
    arrived = threading.Event()

    class Stream(io.BytesIO):
        def write(self, data):
            arrived.set()
            return super().write(data)

    LineWriter(Stream()).write("a line")

    assert arrived.wait(timeout=20)


def test_a_closed_stream_stops_nobody():
    stream = io.BytesIO()
    writer = LineWriter(stream)
    stream.close()

    writer.write("a line")
    writer.flush()


def test_a_warning_of_a_library_arrives_as_an_event_of_ours():
    record = logging.LogRecord(
        "aiohttp.server", logging.ERROR, "x.py", 1, "bad key %s", (CANARIES[0],), None
    )
    with structlog.testing.capture_logs() as logs:
        _Bridge().emit(record)

    assert logs == [
        {
            "event": "library.logged",
            "log_level": "error",
            "logger": "aiohttp.server",
            "message": f"bad key {CANARIES[0]}",
            "exc_info": None,
        }
    ]


def test_the_whole_set_up_writes_to_standard_error_alone():
    program = """
import logging, structlog
from proxy.telemetry import set_up_logging
set_up_logging(level="info", form="auto")
log = structlog.get_logger()
log.debug("pass.done", name="poll")
log.info("instance.started", listen="127.0.0.1:0")
logging.getLogger("some.library").warning("%s", "sk-canary-0123456789")
logging.getLogger("some.library").info("https://host/?key=canary")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == b""
    assert [line["event"] for line in lines] == ["instance.started", "library.logged"]
    assert lines[1]["message"] == "***"


def test_telemetry_starts_without_the_prometheus_library():
    program = """
import sys
from proxy.telemetry import Metrics
metrics = Metrics()
metrics.count("claims")
assert "prometheus_client" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def families(metrics):
    page, content_type = render(metrics.snapshot())
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(page.decode())}


def samples(metrics, name):
    """Return the values on the page by sample and labels, these in the order of their names."""
    found = families(metrics)[f"offramp_{name}"].samples
    return {
        (one.name, tuple(one.labels[label] for label in sorted(one.labels))): one.value
        for one in found
    }


def test_a_counter_is_rendered_by_its_labels():
    metrics = Metrics(strict=True)
    metrics.count("job_ended", state="completed", lane="batch")
    metrics.count("job_ended", 2, state="completed", lane="batch")
    metrics.count("job_ended", state="failed", lane="batch")

    assert samples(metrics, "job_ended") == {
        ("offramp_job_ended_total", ("batch", "completed")): 3,
        ("offramp_job_ended_total", ("batch", "failed")): 1,
    }


def test_a_histogram_is_rendered_cumulatively():
    metrics = Metrics(strict=True)
    for seconds in (0.0005, 0.001, 0.2, 100.0):
        metrics.observe("pass_seconds", seconds, name="poll")

    found = samples(metrics, "pass_seconds")

    name = "offramp_pass_seconds"
    assert found[f"{name}_bucket", ("0.001", "poll")] == 2
    assert found[f"{name}_bucket", ("0.5", "poll")] == 3
    assert found[f"{name}_bucket", ("60", "poll")] == 3
    assert found[f"{name}_bucket", ("+Inf", "poll")] == 4
    assert found[f"{name}_count", ("poll",)] == 4
    assert found[f"{name}_sum", ("poll",)] == pytest.approx(100.2015)


def test_a_number_without_labels_is_shown_before_it_moves():
    assert samples(Metrics(), "claims") == {("offramp_claims_total", ()): 0}


def test_the_process_itself_is_on_the_page():
    assert "process_resident_memory_bytes" in families(Metrics())


def test_every_metric_has_a_help_text_and_reaches_the_page():
    metrics = Metrics(strict=True)
    for name, metric in METRICS.items():
        labels = dict.fromkeys(metric.labels, "x")
        match metric.kind:
            case Kind.COUNTER:
                metrics.count(name, **labels)
            case Kind.GAUGE:
                metrics.gauge(name, 1, **labels)
            case Kind.HISTOGRAM:
                metrics.observe(name, 1, **labels)

    found = families(metrics)

    for name, metric in METRICS.items():
        family = found[f"offramp_{name}"]
        assert family.documentation == metric.help
        assert family.samples
        assert metric.help.endswith(".")


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("no_such_counter", {}),
        ("job_ended", {"state": "completed"}),
        ("job_ended", {"state": "completed", "owner": "x"}),
        ("batches", {"upstream": "openai", "state": "sealed"}),
    ],
)
def test_an_unknown_count_raises_where_it_is_strict_and_is_counted_elsewhere(name, labels):
    with pytest.raises(AssertionError):
        Metrics(strict=True).count(name, **labels)

    metrics = Metrics()
    metrics.count(name, **labels)
    assert metrics.value("unlisted") == 1


def test_labels_that_never_end_do_not_fill_the_memory():
    metrics = Metrics(strict=True)
    for number in range(2_000):
        metrics.count("credential_paused", code=f"code-{number}")

    assert len(metrics.snapshot().values["credential_paused"]) <= 501
    assert metrics.value("credential_paused", code="other") >= 1_400


def make_head(**changes):
    head = Head(
        key=make_key(),
        count=3,
        body_bytes=300,
        tokens=30,
        oldest_at=T0,
        newest_at=T0,
        nearest_deadline=T0 + timedelta(hours=1),
    )
    return replace(head, **changes)


def test_the_queue_is_summed_over_credentials_and_models():
    metrics = Metrics(strict=True)
    older, sooner = T0 - timedelta(minutes=5), T0 + timedelta(minutes=20)
    heads = [
        make_head(oldest_at=older),
        make_head(key=make_key(model="another"), nearest_deadline=sooner),
        make_head(key=make_key(lane=Lane.INTERACTIVE), count=1),
    ]

    metrics.show_queue(heads)

    place = {"upstream": "openai", "lane": "batch"}
    assert metrics.value("queued_jobs", **place) == 6
    assert metrics.value("queued_bytes", **place) == 600
    assert metrics.value("queue_oldest_timestamp_seconds", **place) == older.timestamp()
    assert metrics.value("queue_nearest_deadline_timestamp_seconds", **place) == sooner.timestamp()
    assert metrics.value("queued_jobs", upstream="openai", lane="interactive") == 1


def test_a_queue_that_ran_empty_is_not_shown_full_for_ever():
    metrics = Metrics(strict=True)
    metrics.show_queue([make_head()])
    metrics.show_batches([make_batch(state=BatchState.SEALED, count=5)])
    assert metrics.value("batched_jobs", upstream="openai", state="sealed") == 5

    metrics.show_queue([])
    metrics.show_batches([])

    assert samples(metrics, "queued_jobs") == {}
    assert samples(metrics, "batches") == {}


def test_a_forwarded_call_moves_all_its_numbers():
    metrics = Metrics(strict=True)

    metrics.forwarded(
        upstream="openai",
        outcome="completed",
        bytes_up=10,
        bytes_down=70,
        first_byte_s=0.2,
        duration_s=3.0,
    )
    metrics.forwarded(
        upstream="openai",
        outcome="refused",
        bytes_up=1,
        bytes_down=0,
        first_byte_s=None,
        duration_s=0.1,
    )

    assert metrics.value("calls", decision="forward", outcome="completed") == 1
    assert metrics.value("forwarded_bytes", upstream="openai", direction="up") == 11
    assert metrics.value("forwarded_bytes", upstream="openai", direction="down") == 70
    assert samples(metrics, "forward_seconds")["offramp_forward_seconds_count", ("openai",)] == 2
    first = samples(metrics, "forward_first_byte_seconds")
    assert first["offramp_forward_first_byte_seconds_count", ("openai",)] == 1


def test_a_snapshot_does_not_change_while_counting_goes_on():
    metrics = Metrics(strict=True)
    metrics.count("claims")
    before = metrics.snapshot()
    metrics.count("claims")

    assert before.values["claims"][()] == 1

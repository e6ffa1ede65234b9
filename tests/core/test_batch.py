"""The life of a batch: every pair of the table, and the order in which money is spent."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.batch import (
    TRANSITIONS,
    Batch,
    BatchState,
    advance,
)
from proxy.core.batch_events import (
    BatchEnded,
    BatchEvent,
    BatchSettled,
    CancelStarted,
    Confirmed,
    Created,
    CreateStarted,
    CreateUnclear,
    Delayed,
    Disowned,
    Dissolved,
    Harvested,
    Missing,
    Polled,
    PutBack,
    Rejected,
    ResultsNamed,
    Sealed,
    SubmissionStarted,
    TwinFound,
    TwinRead,
    Uploaded,
    Vanished,
)
from proxy.core.ids import InstanceId
from proxy.core.job import InvalidTransitionError, Stale
from tests.helpers.factories import T0, make_batch

S = BatchState
HERE = InstanceId("i1")
SOON = T0 + timedelta(seconds=30)
LATER = T0 + timedelta(minutes=5)

EVENTS: dict[type[BatchEvent], BatchEvent] = {
    Sealed: Sealed(3, 900, 60, LATER),
    SubmissionStarted: SubmissionStarted(HERE),
    Uploaded: Uploaded("file-1", 3),
    CreateStarted: CreateStarted(T0, 12),
    CreateUnclear: CreateUnclear(T0, SOON, searched=False),
    PutBack: PutBack(SOON),
    Created: Created("batch_1", T0, LATER, SOON),
    Confirmed: Confirmed(),
    Disowned: Disowned(T0, "another's batch"),
    Rejected: Rejected(T0, "provider_rejected", "no"),
    Dissolved: Dissolved(T0, "its credential is paused"),
    Polled: Polled(SOON),
    CancelStarted: CancelStarted(SOON, T0),
    Missing: Missing(T0, SOON),
    Vanished: Vanished(SOON),
    TwinFound: TwinFound("batch_2"),
    TwinRead: TwinRead("batch_2"),
    BatchEnded: BatchEnded(T0, "completed", ("out-1", "err-1")),
    ResultsNamed: ResultsNamed(("out-2",)),
    Delayed: Delayed(SOON),
    Harvested: Harvested(T0),
    BatchSettled: BatchSettled(T0),
}
Path = tuple[type[BatchEvent], ...]
PAIRS = [(state, kind) for state in BatchState for kind in EVENTS]


def after(*events: BatchEvent, batch: Batch | None = None) -> Batch:
    batch = batch or make_batch()
    for event in events:
        batch = advance(batch, event)
    return batch


SUBMITTING = (EVENTS[Sealed], EVENTS[SubmissionStarted], EVENTS[Uploaded], EVENTS[CreateStarted])
IN_PROGRESS = (*SUBMITTING, EVENTS[Created])
ENDED = (*IN_PROGRESS, EVENTS[BatchEnded])


def test_every_state_has_a_row_and_every_event_an_example() -> None:
    assert set(TRANSITIONS) == set(BatchState)
    assert set(EVENTS) == set(BatchEvent.__args__)


@pytest.mark.parametrize(("state", "kind"), PAIRS)
def test_a_batch_follows_the_table_and_refuses_what_is_not_in_it(
    state: BatchState, kind: type[BatchEvent]
) -> None:
    before = make_batch(state=state)
    target = TRANSITIONS[state].get(kind)

    if target is None:
        with pytest.raises(InvalidTransitionError, match=f"batch {before.id} in state {state}"):
            advance(before, EVENTS[kind])
    elif isinstance(target, Stale):
        assert advance(before, EVENTS[kind]) is before
    else:
        moved = advance(before, EVENTS[kind])
        assert moved.state is target
        assert moved.version == before.version + 1


@pytest.mark.parametrize(
    ("state", "targets"),
    [
        (S.FILLING, {S.SEALED}),
        (S.SEALED, {S.SUBMITTING, S.ENDED, S.IN_PROGRESS}),
        (S.SUBMITTING, {S.SUBMITTING, S.SEALED, S.IN_PROGRESS, S.ENDED}),
        (S.IN_PROGRESS, {S.IN_PROGRESS, S.CANCELLING, S.LOST, S.ENDED}),
        (S.CANCELLING, {S.CANCELLING, S.LOST, S.ENDED}),
        (S.LOST, {S.LOST, S.IN_PROGRESS, S.ENDED}),
        (S.ENDED, {S.ENDED, S.SETTLED}),
        (S.SETTLED, set()),
    ],
)
def test_from_each_state_only_these_are_reached(state: BatchState, targets) -> None:
    reached = {to for to in TRANSITIONS[state].values() if not isinstance(to, Stale)}

    assert reached == targets


def test_no_paid_step_comes_without_the_durable_intent_before_it() -> None:
    """Whatever leads a new batch to `CreateStarted` has sealed it and noted the submission."""
    found: dict[Path, Batch] = {}
    frontier: list[tuple[Batch, Path]] = [(make_batch(), ())]
    seen = set()
    while frontier:
        batch, path = frontier.pop()
        for kind, event in EVENTS.items():
            if TRANSITIONS[batch.state].get(kind) is None:
                continue
            moved = advance(batch, event)
            if kind is CreateStarted:
                found[path] = batch
            # The past matters by state and by the last intents alone.
            place = (moved.state, SubmissionStarted in path, Sealed in path)
            if place not in seen:
                seen.add(place)
                frontier.append((moved, (*path, kind)))

    assert found
    for path, batch in found.items():
        assert batch.state is S.SUBMITTING
        assert Sealed in path
        assert SubmissionStarted in path


@pytest.mark.parametrize("state", set(BatchState) - {S.SUBMITTING})
@pytest.mark.parametrize("kind", [Uploaded, CreateStarted, CreateUnclear])
def test_nothing_is_handed_over_outside_of_a_submission(state: BatchState, kind) -> None:
    assert TRANSITIONS[state].get(kind) is None


@pytest.mark.parametrize("state", set(BatchState) - {S.FILLING})
def test_the_news_of_a_created_batch_is_welcome_in_every_state(state: BatchState) -> None:
    assert TRANSITIONS[state].get(Created) is not None


@pytest.mark.parametrize("state", [S.IN_PROGRESS, S.CANCELLING, S.LOST, S.ENDED, S.SETTLED])
@pytest.mark.parametrize("kind", [Polled, Missing, Vanished, CancelStarted, BatchEnded, Delayed])
def test_what_a_collector_heard_before_it_stood_still_is_never_a_bug(state, kind) -> None:
    assert TRANSITIONS[state].get(kind) is not None


def test_a_sealed_batch_knows_what_it_holds() -> None:
    batch = after(EVENTS[Sealed])

    assert (batch.count, batch.body_bytes, batch.tokens) == (3, 900, 60)
    assert batch.nearest_deadline == LATER


def test_each_submission_is_counted_and_held_by_someone() -> None:
    batch = after(EVENTS[Sealed], EVENTS[SubmissionStarted], SubmissionStarted(InstanceId("i2")))

    assert (batch.submissions, batch.holder) == (2, "i2")


def test_a_created_batch_is_nobodys_and_knows_its_window() -> None:
    batch = after(*IN_PROGRESS)

    assert batch.state is S.IN_PROGRESS
    assert batch.provider_batch_id == "batch_1"
    assert (batch.submitted_at, batch.window_ends_at, batch.next_at) == (T0, LATER, SOON)
    assert (batch.holder, batch.input_file_id) == (None, "file-1")


def test_an_unclear_create_keeps_its_first_time_and_counts_searches() -> None:
    batch = after(
        *SUBMITTING,
        CreateUnclear(T0, SOON, searched=False),
        CreateUnclear(SOON, LATER, searched=True),
        CreateUnclear(LATER, LATER, searched=True),
    )

    assert batch.ambiguous_since == T0
    assert (batch.searches, batch.next_at) == (2, LATER)
    assert batch.create_started_at == T0
    assert batch.holder is None


def test_a_batch_put_back_remembers_that_a_twin_may_turn_up() -> None:
    batch = after(*SUBMITTING, EVENTS[CreateUnclear], EVENTS[PutBack])

    assert batch.state is S.SEALED
    assert (batch.create_started_at, batch.searches, batch.holder) == (None, 0, None)
    assert batch.ambiguous_since == T0
    assert (batch.input_file_id, batch.next_at) == ("file-1", SOON)


def test_a_rejected_batch_bought_nothing_and_says_why() -> None:
    batch = after(*SUBMITTING, Rejected(T0, "bad", "no such model", 2))

    assert batch.state is S.ENDED
    assert (batch.end_reason, batch.error_code) == ("rejected", "bad")
    assert (batch.error_message, batch.error_line) == ("no such model", 2)
    assert (batch.create_started_at, batch.provider_batch_id, batch.holder) == (None, None, None)


@pytest.mark.parametrize("before", [(EVENTS[Sealed],), SUBMITTING])
def test_a_dissolved_batch_ended_with_our_reason(before) -> None:
    batch = after(*before, EVENTS[Dissolved])

    assert (batch.state, batch.end_reason) == (S.ENDED, "its credential is paused")
    assert (batch.ended_at, batch.error_code, batch.next_at) == (T0, None, None)


def test_polls_are_counted_and_end_an_absence_and_a_refusal() -> None:
    batch = after(*IN_PROGRESS, Missing(T0, SOON), Delayed(SOON, T0), Polled(LATER))

    assert (batch.polls, batch.missing_since, batch.refused_since) == (1, None, None)
    assert batch.next_at == LATER


def test_a_batch_that_the_provider_stops_by_itself_is_cancelling() -> None:
    assert after(*IN_PROGRESS, Polled(SOON, cancelling=True)).state is S.CANCELLING


def test_an_absence_counts_from_its_first_sight() -> None:
    batch = after(*IN_PROGRESS, Missing(T0, SOON), Missing(SOON, LATER))

    assert (batch.missing_since, batch.next_at) == (T0, LATER)
    assert batch.state is S.IN_PROGRESS


def test_a_lost_batch_that_is_found_goes_on() -> None:
    lost = after(*IN_PROGRESS, EVENTS[Missing], EVENTS[Vanished])
    assert lost.state is S.LOST

    found = advance(lost, Polled(SOON))

    assert (found.state, found.missing_since) == (S.IN_PROGRESS, None)


def test_a_refusal_counts_from_its_first_sight_until_someone_is_let_in() -> None:
    refused = after(*IN_PROGRESS, Delayed(SOON, T0), Delayed(LATER), Delayed(LATER, SOON))
    assert refused.refused_since == T0

    for event in (Polled(SOON), Missing(T0, SOON), EVENTS[BatchEnded]):
        assert advance(refused, event).refused_since is None
    unread = after(*ENDED, Delayed(SOON, T0))
    assert (unread.refused_since, advance(unread, Harvested(T0)).refused_since) == (T0, None)
    unsearched = after(*SUBMITTING, Delayed(SOON, T0))
    assert advance(unsearched, EVENTS[Created]).refused_since is None


def test_a_twin_is_noted_once_and_is_never_the_batch_itself() -> None:
    batch = after(*IN_PROGRESS, TwinFound("batch_2"), TwinFound("batch_2"), TwinFound("batch_1"))

    assert batch.twins == ("batch_2",)


def test_a_twin_that_was_read_is_remembered() -> None:
    batch = after(*ENDED, TwinFound("batch_2"), TwinFound("batch_3"), TwinRead("batch_3"))

    assert (batch.twins, batch.twins_read) == (("batch_2", "batch_3"), ("batch_3",))


def test_an_ended_batch_keeps_what_the_provider_said() -> None:
    batch = after(
        *IN_PROGRESS, BatchEnded(T0, "failed", (), "invalid_json_line", "line 3 is no JSON", 3)
    )

    assert (batch.end_reason, batch.ended_at) == ("failed", T0)
    assert (batch.error_code, batch.error_message) == ("invalid_json_line", "line 3 is no JSON")
    assert batch.error_line == 3


def test_a_line_that_the_input_does_not_have_is_none() -> None:
    ended = after(*IN_PROGRESS, BatchEnded(T0, "failed", (), "invalid_json_line", None, 4))
    refused = after(*SUBMITTING, Rejected(T0, "bad", "line 4", 4))

    assert ended.count == refused.count == 3
    assert (ended.error_line, refused.error_line) == (None, None)


def test_the_first_end_of_a_batch_counts() -> None:
    batch = after(*ENDED)

    assert advance(batch, BatchEnded(LATER, "expired")) is batch
    assert batch.output_file_ids == ("out-1", "err-1")


def test_a_settled_batch_has_nothing_left_to_do() -> None:
    batch = after(*ENDED, EVENTS[Delayed], EVENTS[Harvested], EVENTS[BatchSettled])

    assert (batch.state, batch.harvested_at, batch.settled_at) == (S.SETTLED, T0, T0)
    assert batch.next_at is None


@given(st.lists(st.sampled_from(list(EVENTS.values())), max_size=20))
@settings(max_examples=60)
def test_invariants_hold_after_any_history(history: list[BatchEvent]) -> None:
    batch = make_batch()
    for event in history:
        if TRANSITIONS[batch.state].get(type(event)) is None:
            continue
        moved = advance(batch, event)

        assert moved.version - batch.version == (moved is not batch)
        assert moved.submissions >= batch.submissions
        assert batch.state is not S.SETTLED or moved is batch
        assert (
            moved.state in (S.FILLING, S.SEALED)
            or moved.submissions
            or moved.ended_at
            or (moved.provider_batch_id)
        )
        at_provider = moved.state in (S.IN_PROGRESS, S.CANCELLING, S.LOST)
        assert not at_provider or moved.provider_batch_id is not None
        assert moved.holder is None or moved.state is S.SUBMITTING
        assert (moved.ended_at is not None) == (moved.state in (S.ENDED, S.SETTLED))
        assert (moved.settled_at is not None) == (moved.state is S.SETTLED)
        batch = moved

"""What is learned about enqueued-token limits, from refusals alone."""

from datetime import timedelta

import pytest

from proxy.core.job import JobState
from proxy.ports.notes import Note
from proxy.services.batches.governor import LEAST_LIMIT, NAME, TokenGovernor
from tests.helpers.factories import CREDENTIAL, T0
from tests.helpers.fleet import Fleet
from tests.helpers.memory_notes import MemoryNoteStore

MODEL = "gpt-4o-mini"
QUEUE = (CREDENTIAL, MODEL)


def make_governor(
    configured: int | None = None, notes: MemoryNoteStore | None = None
) -> TokenGovernor:
    return TokenGovernor(notes or MemoryNoteStore(), configured)


async def test_nothing_is_known_at_first() -> None:
    governor = make_governor()

    assert governor.max_tokens(QUEUE, now=T0) is None
    assert governor.resting_until(QUEUE) is None


@pytest.mark.parametrize("text", ["", "{", "7", "[[1]]", '[["a", "b", "c", "d", "e"]]'])
async def test_a_note_that_cannot_be_read_tells_nothing_and_is_written_anew(text: str) -> None:
    notes = MemoryNoteStore()
    await notes.write(NAME, Note(text, 1))
    governor = make_governor(notes=notes)

    await governor.refresh()
    assert governor.max_tokens(QUEUE, now=T0) is None
    await governor.exceeded(QUEUE, 1_000, now=T0)
    await governor.refresh()

    assert governor.max_tokens(QUEUE, now=T0) == 500


async def test_a_refusal_halves_the_batches_and_begins_a_rest() -> None:
    governor = make_governor()

    until = await governor.exceeded(QUEUE, 1_000, now=T0)

    assert until == governor.resting_until(QUEUE) == T0 + timedelta(minutes=1)
    assert governor.max_tokens(QUEUE, now=T0) == 500


async def test_refusals_in_a_row_halve_again_and_rest_longer_up_to_a_bound() -> None:
    governor, now, rests = make_governor(), T0, []
    for _ in range(8):
        until = await governor.exceeded(QUEUE, 1_000, now=now)
        rests.append((until - now) / timedelta(minutes=1))
        now = until

    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    # Between two of them it grows a little: half an hour is not nothing.
    bound = governor.max_tokens(QUEUE, now=now)
    assert bound is not None
    assert 1_000 // 2**8 <= bound < 10


async def test_a_small_batch_that_was_too_much_teaches_more_than_a_large_one() -> None:
    governor = make_governor()
    await governor.exceeded(QUEUE, 1_000, now=T0)

    await governor.exceeded(QUEUE, 100, now=T0)

    assert governor.max_tokens(QUEUE, now=T0) == 50


async def test_the_bound_never_reaches_zero() -> None:
    governor = make_governor()
    for _ in range(4):
        await governor.exceeded(QUEUE, 1, now=T0)

    assert governor.max_tokens(QUEUE, now=T0) == 1


async def test_a_bound_is_left_behind_little_by_little() -> None:
    governor = make_governor()
    await governor.exceeded(QUEUE, 2_000, now=T0)

    bounds = [
        governor.max_tokens(QUEUE, now=T0 + timedelta(hours=hours)) for hours in (0, 1, 2, 24, 49)
    ]

    assert bounds == [1_000, 1_250, 1_562, 211_758, None]


async def test_what_was_let_in_beside_a_refused_batch_may_be_enqueued() -> None:
    governor = make_governor()

    await governor.exceeded(QUEUE, 100, others=900, now=T0)

    assert governor.max_tokens(QUEUE, now=T0) == 900


async def test_a_refusal_never_raises_a_bound_whatever_is_enqueued_beside_it() -> None:
    governor = make_governor()
    await governor.exceeded(QUEUE, 1_000, now=T0)

    await governor.exceeded(QUEUE, 100, others=900, now=T0)

    assert governor.max_tokens(QUEUE, now=T0) == 250


async def test_batches_that_are_refused_together_pause_once_and_teach_the_least() -> None:
    governor = make_governor()

    until = [await governor.exceeded(QUEUE, size, now=T0) for size in (1_000, 2_000, 400)]

    assert until == [T0 + timedelta(minutes=1)] * 3
    assert governor.max_tokens(QUEUE, now=T0) == 125


async def test_a_refusal_long_after_the_last_one_pauses_shortly() -> None:
    governor, now = make_governor(), T0
    for _ in range(4):
        now = await governor.exceeded(QUEUE, 1_000, now=now)

    later = now + timedelta(hours=2)

    until = await governor.exceeded(QUEUE, 1_000, now=later)
    assert until == later + timedelta(minutes=1)


async def test_a_bound_below_all_limits_doubles_with_each_batch_that_is_let_in() -> None:
    notes = MemoryNoteStore()
    governor, other = make_governor(notes=notes), make_governor(notes=notes)
    await governor.exceeded(QUEUE, 200, now=T0)
    later = T0 + timedelta(minutes=30)
    rest = governor.resting_until(QUEUE)

    bounds = []
    for tokens in (10, 100, 300, 9_000, 15_000, 90_000):
        await governor.let_in(QUEUE, tokens, now=later)
        bounds.append(governor.max_tokens(QUEUE, now=later))
    await other.refresh()

    assert bounds == [111, 200, 600, 18_000, LEAST_LIMIT, LEAST_LIMIT]
    assert other.max_tokens(QUEUE, now=later) == LEAST_LIMIT
    assert governor.resting_until(QUEUE) == rest


async def test_what_is_let_in_raises_no_bound_that_a_limit_may_have_taught() -> None:
    governor = make_governor()
    await governor.let_in(QUEUE, 10, now=T0)
    assert governor.max_tokens(QUEUE, now=T0) is None
    await governor.exceeded(QUEUE, 4 * LEAST_LIMIT, now=T0)

    await governor.let_in(QUEUE, 2 * LEAST_LIMIT, now=T0)

    assert governor.max_tokens(QUEUE, now=T0) == 2 * LEAST_LIMIT


async def test_refusals_far_below_the_limit_do_not_make_a_batch_of_each_job() -> None:
    fleet = Fleet()
    fleet.will("create", "throttled", times=8)
    await fleet.accept_many(60)

    await fleet.run_for(timedelta(hours=5), step=timedelta(minutes=1))

    assert await fleet.states() == {JobState.COMPLETED: 60}
    assert fleet.provider.requests["create"] <= 8 + 12
    assert fleet.provider.requests["call"] == 0


@pytest.mark.parametrize("other", [("credential-2", MODEL), (CREDENTIAL, "gpt-4o")])
async def test_other_credentials_and_models_are_unaffected(other) -> None:
    governor = make_governor()
    await governor.exceeded(QUEUE, 1_000, now=T0)

    assert governor.max_tokens(other, now=T0) is None
    assert governor.resting_until(other) is None


async def test_a_configured_bound_holds_and_is_only_ever_lowered() -> None:
    governor = make_governor(600)
    assert governor.max_tokens(QUEUE, now=T0) == 600

    await governor.exceeded(QUEUE, 2_000, now=T0)
    assert governor.max_tokens(QUEUE, now=T0) == 600
    await governor.exceeded(QUEUE, 600, now=T0)

    assert governor.max_tokens(QUEUE, now=T0) == 300


async def test_what_one_instance_learns_all_know_and_a_later_start_too() -> None:
    notes = MemoryNoteStore()
    here, there = make_governor(notes=notes), make_governor(notes=notes)
    until = await here.exceeded(QUEUE, 1_000, now=T0)

    await there.refresh()
    assert there.max_tokens(QUEUE, now=T0) == 500
    assert there.resting_until(QUEUE) == until
    await there.exceeded(QUEUE, 1_000, now=until)
    await here.refresh()

    assert here.max_tokens(QUEUE, now=until) == 250


class Contested(MemoryNoteStore):
    """Another instance learns something between each read and the write after it."""

    def __init__(self) -> None:
        super().__init__()
        self.races = 3

    async def read(self, name: str) -> Note | None:
        found = await super().read(name)
        if self.races:
            self.races -= 1
            other = make_governor(notes=self)
            races, self.races = self.races, 0
            await other.exceeded((CREDENTIAL, f"model-{races}"), 1_000, now=T0)
            self.races = races
        return found


async def test_lessons_of_the_same_moment_are_all_kept() -> None:
    notes = Contested()
    await make_governor(notes=notes).exceeded(QUEUE, 1_000, now=T0)
    reader = make_governor(notes=notes)
    await reader.refresh()

    known = [MODEL, "model-0", "model-1", "model-2"]
    assert [reader.max_tokens((CREDENTIAL, model), now=T0) for model in known] == [500] * 4

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest

from proxy.core.job import Job, JobState
from proxy.core.records import Maker
from tests.helpers.factories import make_job

changed = Maker(Job).changed


def test_a_copy_is_what_replace_makes():
    job = make_job(tags={"team": "etl"}, webhook="done")

    copy = changed(job, state=JobState.COMPLETED, version=7)

    assert copy == replace(job, state=JobState.COMPLETED, version=7)
    assert job.version == 0


def test_a_copy_is_as_frozen_as_its_original():
    with pytest.raises(FrozenInstanceError):
        changed(make_job(), version=1).version = 2  # type: ignore[misc]


def test_a_field_that_does_not_exist_is_an_error():
    with pytest.raises(KeyError):
        changed(make_job(), verzion=1)


def test_a_record_that_checks_itself_is_not_copied_behind_its_back():
    @dataclass(frozen=True)
    class Checked:
        value: int

        def __post_init__(self) -> None:
            assert self.value > 0

    with pytest.raises(AssertionError):
        Maker(Checked)


def test_a_record_with_slots_is_refused_since_nothing_could_be_put_into_it():
    @dataclass(frozen=True, slots=True)
    class Slotted:
        value: int

    with pytest.raises(AssertionError):
        Maker(Slotted)


def test_a_record_is_made_of_all_its_fields_and_of_nothing_else():
    values = vars(make_job())
    one_less = {name: value for name, value in values.items() if name != "tokens"}

    assert Maker(Job).make(values) == make_job(id=values["id"])
    for wrong in (one_less, values | {"token": 1}, one_less | {"token": 1}):
        with pytest.raises(KeyError):
            Maker(Job).make(wrong)

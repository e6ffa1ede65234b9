"""A provider's word for the state of a batch."""

import pytest
import structlog

from proxy.ports.provider import ProviderBatchState
from proxy.providers.statuses import read_status

STATES = {"done": ProviderBatchState.ENDED}


@pytest.mark.parametrize("word", ["done", "Done", " DONE "])
def test_a_word_is_known_in_any_case(word):
    read = read_status(word, STATES, provider="x", provider_batch_id="b")

    assert read == ("done", ProviderBatchState.ENDED)


@pytest.mark.parametrize("word", [None, "", "pondering", "x" * 1_000])
def test_an_unknown_word_means_that_the_batch_runs_and_is_told_of(word):
    with structlog.testing.capture_logs() as logs:
        status, state = read_status(word, STATES, provider="x", provider_batch_id="b")

    assert state is ProviderBatchState.RUNNING
    assert len(status) <= 64
    assert [entry["event"] for entry in logs] == ["provider.unknown_status"]

"""What others are given of the configuration, and the bounds of single keys."""

from datetime import timedelta

import pytest

from proxy.core.lanes import LaneTimes
from proxy.settings import (
    BadConfigurationError,
)


def test_the_planners_get_what_is_configured(configure):
    settings = configure(
        "batching: {linger: 5s, worth: 3, max_open_batches: 2, poll_interval: 4s}\n"
        "lanes: {cancel_time: 1m, margin: 1s, calls_per_s: 2}\n"
    ).settings

    limits = settings.batching.flush_limits()
    assert (limits.linger, limits.worth, limits.max_open) == (timedelta(seconds=5), 3, 2)
    # Any provider's own limit is smaller than the one that nobody configured.
    assert limits.max_requests > 10**9
    assert settings.batching.pace().interval == timedelta(seconds=4)
    assert settings.batching.pace().first == timedelta(seconds=4)
    assert settings.lanes.times() == LaneTimes(
        cancel=timedelta(minutes=1), margin=timedelta(seconds=1), calls_per_s=2
    )


def test_recording_is_off_unless_there_is_a_file_to_record_to(configure, tmp_path):
    assert configure("").settings.recording.path is None

    recording = configure("recording: {path: facts.jsonl, max_bytes: 1MB, sample: 0.25}").settings
    assert recording.recording.path == tmp_path / "facts.jsonl"
    assert (recording.recording.max_bytes, recording.recording.sample) == (1_000_000, 0.25)


@pytest.mark.parametrize(
    ("recording", "problem"),
    [
        ("{sample: 0}", "must be more than 0"),
        ("{sample: 2}", "must be at most 1"),
        ("{max_bytes: 1KB}", "must be at least 65536"),
        ("{headers: [x-job, Authorization]}", "carries credentials: it is never recorded"),
        ("{path: offramp.yaml/facts}", "cannot be made"),
    ],
)
def test_recording_within_bounds_and_without_credentials(configure, recording, problem):
    with pytest.raises(BadConfigurationError, match=problem):
        configure(f"recording: {recording}")

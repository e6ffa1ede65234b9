"""What `Retry-After` asks for, in every way that it is written."""

from datetime import timedelta
from email.utils import format_datetime

import pytest

from proxy.core.retry_after import pause_asked_for
from tests.helpers.factories import T0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("1e300", 86_400.0),
        ("9" * 40, 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 23 Nov 2026 12:00:30 +99999999999999", None),
        (format_datetime(T0 + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(T0 - timedelta(seconds=90), usegmt=True), 0.0),
        ("Mon, 23 Nov 2026 12:00:30 -0000", None),
    ],
)
def test_a_pause_is_read_as_seconds_or_as_a_time(value: str | None, seconds: float | None) -> None:
    pause = None if seconds is None else timedelta(seconds=seconds)
    assert pause_asked_for(value, now=T0) == pause

import pytest

from policies.fields import Tag
from proxy.core.errors import CallerError
from proxy.web.asked import read_asked
from tests.helpers.factories import T0


def test_what_the_headers_ask_for_is_read():
    assert read_asked(((b"X-Deferrable", b"wait"),), now=T0).tag is Tag.WAIT


def test_a_header_that_cannot_be_read_is_its_callers_error_by_name():
    with pytest.raises(CallerError) as caught:
        read_asked(((b"X-Deferrable-Deadline", b"soon"),), now=T0)

    error = caught.value
    assert (error.http_status, error.code) == (400, "bad_header")
    assert error.param == "X-Deferrable-Deadline"

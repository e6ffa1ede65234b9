import errno
import socket
import ssl

import pytest

from proxy.system_words import system_words

REFUSED = "Connect call failed ('10.1.2.3', 443)"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, REFUSED), "Connection refused"),
        (
            OSError(
                "Multiple exceptions: [Errno 101] Connect call failed ('2001:db8::1', 443, 0, 0), "
                "[Errno 111] Connect call failed ('10.1.2.3', 443), [Errno 111] Connect call failed"
            ),
            "Network is unreachable, Connection refused",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "Name or service not known",
        ),
        # Their numbers are those of OpenSSL, and no errno.
        (ssl.SSLError(1, "wrong version number"), "wrong version number"),
        (ConnectionError("no way through the web proxy"), "no way through the web proxy"),
        (UnicodeError("label too long"), "label too long"),
        (TimeoutError(), ""),
    ],
)
def test_the_system_says_why_and_not_where_to(failure, words):
    assert system_words(failure).endswith(words)
    assert "10.1.2.3" not in system_words(failure)

"""What an earlier start left behind, held against each other: the output and the journal.

An answer names its job, and so does the journal: no other file passes for the
output of a send, whatever was written to its name meanwhile.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.send.errors import SendError
from proxy.send.journal import REFUSED, Journal
from proxy.send.lines import Line, read_lines
from proxy.send.output import Output, answer_head

_JOB: Final = re.compile(rb'\s*"id"\s*:\s*(?:"([^"\\]{1,32})"|null)')


def recover(file: Path, *, endpoint: str, journal: Journal, output: Output) -> None:
    """Take back what was torn of the output, and note again what the journal has lost.

    Raises:
        SendError: if the output holds anything but answers to these lines; it is left as it was.
    """
    if output.is_empty:
        return
    if not journal.count:
        raise _foreign(output, "move it elsewhere, or name another output")
    # The last line that both know vouches for all before it.
    first = max(min(journal.count, output.count), 1)
    lines = read_lines(file, endpoint=endpoint, after=first - 1)
    if not _are_ours(lines, first, journal, output):
        raise _foreign(
            output,
            "move it elsewhere, and the same command writes its answers anew and buys none of them",
        )
    output.take_back_tail()


def _are_ours(lines: Iterator[Line], first: int, journal: Journal, output: Output) -> bool:
    lost: list[tuple[str, str]] = []
    for number, answer in enumerate(output.answers(after=first - 1), start=first):
        line = next(lines, None)
        job = _job_of(answer, line)
        if line is None or job is None:
            return False
        if number > journal.count:
            lost.append((job, line.digest))
        elif journal.read(number, 1)[0][0] != job:
            return False
    line = next(lines, None)
    if output.tail and (line is None or not _agree(output.tail, answer_head(line))):
        return False
    if lost:
        journal.append(lost)
    return True


def _job_of(answer: bytes, line: Line | None) -> str | None:
    """Return the job whose answer to the line this is, or nothing if it is none to it."""
    head = answer_head(line) if line is not None else b""
    if not head or not answer.startswith(head):
        return None
    found = _JOB.match(answer, len(head))
    if found is None:
        return None
    return REFUSED if found[1] is None else found[1].decode("ascii", "replace")


def _agree(torn: bytes, head: bytes) -> bool:
    length = min(len(torn), len(head))
    return torn[:length] == head[:length]


def _foreign(output: Output, hint: str) -> SendError:
    return SendError(
        f"{output.path} holds something else than the answers of an earlier start", hint=hint
    )

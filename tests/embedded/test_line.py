"""What a user sees of the live line, by way of an emulated terminal."""

import io
import os

import pyte
import pytest

from proxy.embedded.line import StatusLine, write_if_heard


class Seen(io.StringIO):
    """A terminal: what is written to it changes its screen."""

    def __init__(self, columns=40, rows=8):
        super().__init__()
        self.size = os.terminal_size((columns, rows))
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.Stream(self.screen)

    def write(self, text):
        self._stream.feed(text)
        return len(text)

    def print(self, text):
        """Print as a command does whose line feeds the terminal completes."""
        self.write(text.replace("\n", "\r\n"))

    def rows(self):
        return [row.rstrip() for row in self.screen.display]


@pytest.fixture
def seen():
    return Seen()


@pytest.fixture
def line(seen):
    return StatusLine(seen, size=lambda: seen.size)


def test_what_a_command_prints_scrolls_above_the_line(seen, line):
    for number in range(20):
        line.show(f"status {number}")
        seen.print(f"row {number}\n")

    assert seen.rows() == [*(f"row {number}" for number in range(14, 20)), "", "status 19"]


def test_a_command_in_the_middle_of_a_line_goes_on_there(seen, line):
    seen.print("\n" * 7 + "half a ")
    line.show("status")
    seen.print("line")

    assert seen.rows()[-2:] == ["half a line", "status"]


def test_the_row_is_given_back_empty_and_the_whole_screen_scrolls_again(seen, line):
    seen.print("before\n")
    line.show("status")
    line.hide()
    line.hide()
    seen.print("".join(f"row {number}\n" for number in range(10)))

    assert seen.rows() == [*(f"row {number}" for number in range(3, 10)), ""]


def test_a_long_line_is_cut_where_the_terminal_ends(seen, line):
    line.show("x" * 100)

    assert seen.rows()[-1] == "x" * 39
    assert seen.rows()[-2] == ""


def test_a_terminal_that_changed_its_size_gets_the_line_at_its_new_end(seen, line):
    line.show("status")
    seen.size = os.terminal_size((40, 12))
    seen.screen.resize(12, 40)
    line.show("status")
    seen.print("".join(f"row {number}\n" for number in range(30)))

    assert seen.rows()[-3:] == ["row 29", "", "status"]


def test_on_a_terminal_of_few_rows_there_is_no_line():
    seen = Seen(rows=4)
    line = StatusLine(seen, size=lambda: seen.size)

    line.show("status")

    assert seen.rows() == [""] * 4


def test_without_styles_only_the_cursor_is_moved(seen):
    written = io.StringIO()
    line = StatusLine(written, size=lambda: seen.size, styled=False)

    line.show("status")

    assert "\x1b[2m" not in written.getvalue()


def test_a_terminal_that_is_gone_harms_nobody(seen, line):
    def gone(text):
        raise OSError("gone")

    seen.write = gone

    line.show("status")
    line.hide()


@pytest.mark.parametrize("failure", [BlockingIOError, BrokenPipeError, ValueError])
def test_a_stream_that_takes_nothing_stops_nobody(failure):
    class Deaf(io.StringIO):
        def flush(self):
            raise failure

    write_if_heard(Deaf(), "words\n")


def test_a_pipe_without_a_reader_is_tried_only_once():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        write_if_heard(stream, "words\n")
        stream.flush()

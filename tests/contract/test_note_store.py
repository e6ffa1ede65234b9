"""What every `NoteStore` must do."""

import asyncio

from proxy.ports.notes import Note


async def test_there_is_no_note_before_one_is_written(stores):
    assert await stores.notes.read("turnarounds") is None


async def test_a_note_is_read_as_it_was_written(stores):
    note = Note('{"a b": "1 2\\u20ac €\\n"}', 1)

    assert await stores.notes.write("turnarounds", note)

    assert await stores.notes.read("turnarounds") == note
    assert await stores.notes.read("other") is None


async def test_a_note_is_written_only_over_the_one_that_its_writer_saw(stores):
    for version, text in enumerate(("first", "second"), start=1):
        assert await stores.notes.write("turnarounds", Note(text, version))

    for stale in (1, 2, 4):
        assert not await stores.notes.write("turnarounds", Note("stale", stale))
    assert not await stores.notes.write("new", Note("its second", 2))

    assert await stores.notes.read("turnarounds") == Note("second", 2)
    assert await stores.notes.read("new") is None


async def test_of_two_writers_at_once_one_wins(stores):
    written = await asyncio.gather(*(stores.notes.write("n", Note(str(i), 1)) for i in range(5)))

    assert sum(written) == 1

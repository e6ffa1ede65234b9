"""Results that come as a list within one JSON document, cut out item by item as it arrives."""

import re
from collections.abc import Callable
from typing import Final

from proxy.ports.provider import ResultLine
from proxy.providers.result_lines import HEAD_BYTES, LINE_BYTES_MAX, overlong, result_line

_OUTLINE_BYTES_MAX: Final = 1024 * 1024

_MARK: Final = re.compile(rb'["{}\[\]]')
"""Where a string begins, and what opens or closes anything, outside of strings."""

_INSIDE: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
"""The rest of a string, up to its end or to the end of the data within it."""

_QUOTE: Final = ord('"')


class ItemCutter:
    """Cuts the objects of the list `name` out of the pieces of a document.

    The list is a member of the document itself or, where it `is_nested`, the first of that
    name at any depth.

    Holds back no more than one item. `read` makes a result of each, given its bytes, and of
    what begins one that is too long. Every byte is looked at once, however the pieces are cut.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[bytes], ResultLine] = result_line,
        *,
        is_nested: bool = False,
        item_bytes_max: int = LINE_BYTES_MAX,
    ) -> None:
        self._name = name.encode()
        self._is_nested = is_nested
        self._read = read
        self._item_bytes_max = item_bytes_max
        self._held = bytearray()
        self._at = 0
        self._depth = 0
        self._key = b""
        """The last string where the list's name may stand: its key, when the list begins."""
        self._string: int | None = None
        """Where the string began that `_at` is in; below 0 if that is not kept any more."""
        self._item: int | None = None
        """Where the item began that `_at` is in."""
        self._head: bytes | None = None
        """The beginning of an item that is too long to be kept."""
        self._list_depth: int | None = None
        """The depth within the list, as long as that goes on."""
        self._outlined = 0
        """Up to where the document stands in the outline."""
        self.outline = bytearray()
        """The document without the items: what else there is to know of it."""

    def feed(self, data: bytes) -> list[ResultLine]:
        """Return the items that `data` completes."""
        self._held += data
        items: list[ResultLine] = []
        while self._string is None or self._ends_string():
            mark = _MARK.search(self._held, self._at)
            if mark is None:
                self._at = len(self._held)
                break
            self._at = mark.end()
            match mark[0]:
                case b'"':
                    self._string = mark.end()
                case b"{" | b"[":
                    self._open(mark.start(), is_list=mark[0] == b"[")
                case _:
                    items += self._close()
        self._let_go()
        return items

    def end(self) -> list[ResultLine]:
        """Complete the outline. What a document lacks at its end is no item."""
        self._note(len(self._held))
        return []

    @property
    def is_whole(self) -> bool:
        """Whether what has ended was an object with both of its ends."""
        return self._depth == 0 and self.outline.lstrip().startswith(b"{")

    def _ends_string(self) -> bool:
        """Read on in a string; return whether it ends in what is here.

        An escape that is cut off is left for the next time.
        """
        assert self._string is not None
        rest = _INSIDE.match(self._held, self._at)
        assert rest is not None
        self._at = rest.end()
        if self._at == len(self._held) or self._held[self._at] != _QUOTE:
            return False
        if self._list_depth is None and self._may_begin:
            # One whose beginning is gone is no name that is looked for.
            begun = self._string
            self._key = b"" if begun < 0 else bytes(self._held[begun : self._at])
        self._at += 1
        self._string = None
        return True

    @property
    def _may_begin(self) -> bool:
        """Whether a list at this depth may be the one."""
        return self._is_nested or self._depth == 1

    def _open(self, at: int, *, is_list: bool) -> None:
        if self._list_depth is None:
            if is_list and self._may_begin and self._key == self._name:
                self._note(at + 1)
                self._list_depth = self._depth + 1
        elif self._depth == self._list_depth and not is_list:
            self._item = at
        self._depth += 1

    def _close(self) -> list[ResultLine]:
        self._depth -= 1
        if self._list_depth is not None and self._depth < self._list_depth:
            self._list_depth = None
            self._outlined = self._at - 1
            # Of nested ones the first counts: what follows may tell the same again.
            self._is_nested = False
        if self._depth != self._list_depth:
            return []
        head, self._head = self._head, None
        if head is not None:
            return [overlong(self._read(head))]
        if self._item is None:
            return []
        item, self._item = bytes(self._held[self._item : self._at]), None
        return [self._read(item)]

    def _let_go(self) -> None:
        """Forget what is read and belongs to nothing that is still open."""
        if self._item is not None and len(self._held) - self._item > self._item_bytes_max:
            self._head = bytes(self._held[self._item : self._item + HEAD_BYTES])
            self._item = None
        starts = [self._at, self._item]
        if self._string is not None and self._at - self._string <= HEAD_BYTES:
            # Perhaps the name of the list. No name is longer, and what never ends would be kept.
            starts.append(self._string)
        kept = min(start for start in starts if start is not None)
        self._note(kept)
        self._outlined = max(0, self._outlined - kept)
        del self._held[:kept]
        self._at -= kept
        self._item = None if self._item is None else self._item - kept
        self._string = None if self._string is None else self._string - kept

    def _note(self, to: int) -> None:
        """Bring the outline up to a place of what is held, unless that is within the list."""
        if self._list_depth is None and to > self._outlined:
            self.outline += self._held[self._outlined : to]
            self._outlined = to
            # Whoever sends megabytes beside the list is no provider that we know.
            del self.outline[_OUTLINE_BYTES_MAX:]

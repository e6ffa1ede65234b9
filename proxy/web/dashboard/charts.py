"""Charts as SVG, made of numbers alone.

Widths are shares of whatever room there is and heights are pixels, so that a chart fits a phone and
its text keeps its size. Each has a title for those who cannot see it, and each mark one for those
who point at it. Colours are classes: the style sheet knows them, light and dark.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil, floor, log10
from typing import Any, Final

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Part:
    """One coloured part of a bar."""

    value: float
    kind: str
    """The class that gives its colour."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its parts from the bottom up, and what it says."""

    label: str
    """Below the bar; nothing where there is no room for all."""

    title: str
    parts: Sequence[Part]


def bars(title: str, made_of: Sequence[Bar], *, scale: Sequence[tuple[float, str]]) -> Markup:
    """Return upright bars over a scale of values and what they are called, least first."""
    height, foot, head = 150.0, 22.0, 12.0
    top = max([mark for mark, _ in scale] + [sum(p.value for p in b.parts) for b in made_of])
    pixels = height / top if top else 0.0
    base = head + height
    drawn: list[Markup] = []
    lines = [(base - mark * pixels, name) for mark, name in scale]
    drawn += [_tag("line", x1="0", x2="100%", y1=y, y2=y, klass="grid") for y, _ in lines]
    step = 100 / max(1, len(made_of))
    for place, bar in enumerate(made_of):
        drawn.append(_upright(bar, x=place * step, width=step, base=base, pixels=pixels))
    # Over the bars, and none for zero, which the line itself says.
    drawn += [_text(name, x="0", y=y - 3, klass="scale") for y, name in lines if y < base]
    return _svg(title, height=base + foot, klass="bars", drawn=drawn)


def _upright(bar: Bar, *, x: float, width: float, base: float, pixels: float) -> Markup:
    y = base
    # All of the column can be pointed at, however low the bar.
    drawn = [_tag("rect", x=_pc(x), y=0, width=_pc(width), height=base, klass="column")]
    for part in bar.parts:
        tall = part.value * pixels
        y -= tall
        place = {"x": _pc(x + width * 0.14), "width": _pc(width * 0.72)}
        drawn.append(_tag("rect", y=y, height=tall, klass=part.kind, **place))
    if bar.label:
        anchored = "start" if x < 50 else "end"
        at = x if x < 50 else x + width
        drawn.append(_text(bar.label, x=_pc(at), y=base + 16, klass="label", anchor=anchored))
    return _titled(bar.title, *drawn)


def strip(title: str, parts: Sequence[tuple[Part, str]]) -> Markup:
    """Return one lying bar of parts, each with what it says."""
    whole = sum(part.value for part, _ in parts)
    x, drawn = 0.0, []
    for part, said in parts:
        width = 100 * part.value / whole if whole else 0.0
        mark = _tag("rect", x=_pc(x), y=0, width=_pc(width), height=14, klass=part.kind)
        drawn.append(_titled(said, mark))
        x += width
    return _svg(title, height=14, klass="strip", drawn=drawn)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a life line."""

    at: datetime
    said: str


@dataclass(frozen=True, slots=True)
class Span:
    """A time of a life line, from one moment to another."""

    since: datetime
    until: datetime
    kind: str
    said: str


def life_line(
    title: str,
    spans: Sequence[Span],
    *,
    deadline: datetime | None = None,
    now: datetime | None = None,
) -> Markup:
    """Return a life as a line of spans, with its deadline if that is near enough to be drawn.

    A deadline far away would squeeze the life itself; it is left out then.
    """
    first = spans[0].since
    last = max(span.until for span in spans)
    lived = max(last - first, timedelta(seconds=1))
    if deadline is not None and deadline - first <= 4 * lived:
        last = max(last, deadline)
    whole = max((last - first).total_seconds(), 1.0) * 1.02
    drawn = [_tag("rect", x="0", y=6, width="100%", height=8, rx=4, klass="track")]
    for span in spans:
        x = 100 * (span.since - first).total_seconds() / whole
        width = max(0.6, 100 * (span.until - span.since).total_seconds() / whole)
        mark = _tag("rect", x=_pc(x), y=6, width=_pc(width), height=8, rx=2, klass=span.kind)
        drawn.append(_titled(span.said, mark))
    for at, kind, said in ((now, "now", "now"), (deadline, "deadline", "deadline")):
        if at is not None and first <= at <= last:
            x = 100 * (at - first).total_seconds() / whole
            line = _tag("line", x1=_pc(x), x2=_pc(x), y1=1, y2=19, klass=kind)
            drawn.append(_titled(said, line))
    return _svg(title, height=20, klass="life", drawn=drawn)


_TICKS: Final = (
    (timedelta(seconds=10), "10 s"),
    (timedelta(minutes=1), "1 min"),
    (timedelta(minutes=10), "10 min"),
    (timedelta(hours=1), "1 h"),
    (timedelta(hours=6), "6 h"),
    (timedelta(hours=24), "24 h"),
)
_SHORTEST_S: Final = 5.0
_LONGEST_S: Final = 100_000.0


def dots(
    title: str, spans: Sequence[timedelta], *, marks: Sequence[tuple[timedelta, str]]
) -> Markup:
    """Return durations as dots on a scale on which each decade has the same room."""
    drawn = []
    for at, name in _TICKS:
        x = _pc(_log_place(at))
        drawn.append(_tag("line", x1=x, x2=x, y1=4, y2=34, klass="grid"))
        drawn.append(_text(name, x=x, y=48, klass="label", anchor="middle"))
    drawn += [_tag("circle", cx=_pc(_log_place(span)), cy=20, r=4, klass="dot") for span in spans]
    for at, said in marks:
        x = _pc(_log_place(at))
        line = _tag("line", x1=x, x2=x, y1=6, y2=34, klass="mark")
        drawn.append(_titled(said, line))
    return _svg(title, height=54, klass="dots", drawn=drawn)


def _log_place(span: timedelta) -> float:
    seconds = min(_LONGEST_S, max(_SHORTEST_S, span.total_seconds()))
    return 2 + 94 * log10(seconds / _SHORTEST_S) / log10(_LONGEST_S / _SHORTEST_S)


Table = Mapping[Any, Mapping[type, object]]


def transitions(table: Table) -> dict[tuple[StrEnum, StrEnum], list[str]]:
    """Return which events lead from one state to another; stale ones lead nowhere."""
    arrows: dict[tuple[StrEnum, StrEnum], list[str]] = {}
    for state, row in table.items():
        for event, target in row.items():
            if isinstance(target, StrEnum) and target is not state:
                arrows.setdefault((state, target), []).append(event.__name__)
    return arrows


def state_diagram(title: str, table: Table, *, current: StrEnum | None = None) -> Markup:
    """Return the states in a row, with an arc for each transition: forwards above them, back below.
    The current state is marked.
    """
    states, arrows = list(table), transitions(table)
    ways = [(states.index(source), states.index(target)) for source, target in arrows]
    above = max((b - a for a, b in ways), default=0)
    below = max((a - b for a, b in ways), default=0)
    row = _height(above) + 8
    drawn = [_ARROW]
    for (a, b), ((source, target), events) in zip(ways, arrows.items(), strict=True):
        said = f"{source.value} to {target.value}: {', '.join(events)}"
        kind = "arc here" if current in {source, target} else "arc"
        alike = [way for way in ways if (way[0] < way[1]) is (a < b)]
        drawn.append(_arc(_end(a, b, alike), _end(b, a, alike), row=row, said=said, kind=kind))
    for place, state in enumerate(states):
        is_end = not any(source is state for source, _ in arrows)
        drawn.append(_pill(state, place, row=row, is_end=is_end, is_current=state is current))
    foot = row + _TALL + _height(below) + 4
    view = f"0 0 {len(states) * _GAP - 4:.0f} {foot:.0f}"
    return _svg(title, klass="states", drawn=drawn, view=view)


_GAP: Final = 124
_WIDE: Final = 104
_TALL: Final = 30
_RISE: Final = 26
"""How much further an arc is bent for each state that it leaps."""

_ARROW: Final = Markup(
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6"'
    ' markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z" class="head"/></marker></defs>'
)


def _end(here: int, there: int, alike: Sequence[tuple[int, int]]) -> float:
    """Return where, along the state `here`, its arc with `there` begins or ends.

    Arcs on one side of a state stand in the order of where they lead, the further ones
    around the nearer: none crosses another there.
    """
    others = {b for a, b in alike if a == here} | {a for a, b in alike if b == here}
    left = sorted((one for one in others if one < here), reverse=True)
    right = sorted((one for one in others if one > here), reverse=True)
    order = [*left, *right]
    share = (order.index(there) + 1) / (len(order) + 1)
    return here * _GAP + 10 + _TALL / 2 + (_WIDE - _TALL) * share


def _bend(leap: int) -> float:
    return 14 + _RISE * max(1, leap)


def _height(leap: int) -> float:
    """Return how far the widest arc goes: three quarters of the way to where it is bent to."""
    return 0.75 * _bend(leap) if leap > 0 else 0.0


def _arc(x1: float, x2: float, *, row: float, said: str, kind: str) -> Markup:
    onwards = x2 > x1
    y = row if onwards else row + _TALL
    bend = y + _bend(round(abs(x2 - x1) / _GAP)) * (-1 if onwards else 1)
    line = f"M{x1:.0f} {y:.0f}C{x1:.0f} {bend:.0f} {x2:.0f} {bend:.0f} {x2:.0f} {y:.0f}"
    path = _tag("path", d=line, klass=kind, marker_end="url(#arrow)")
    return _titled(said, path)


def _pill(state: StrEnum, place: int, *, row: float, is_end: bool, is_current: bool) -> Markup:
    x = place * _GAP + 10
    kind = "state current" if is_current else "state"
    shape = {"width": _WIDE, "height": _TALL, "rx": _TALL / 2}
    box = _tag("rect", x=x, y=row, klass=f"{kind} end" if is_end else kind, **shape)
    name = state.value.replace("_", " ")
    text = _text(name, x=x + _WIDE / 2, y=row + _TALL / 2 + 4, klass=kind, anchor="middle")
    return _group([box, text])


def scale_to(top: float, name: Callable[[float], str]) -> list[tuple[float, str]]:
    """Return three or four round marks from zero to at least `top`, each called by `name`."""
    if top <= 0:
        return [(0, name(0))]
    magnitude = 10.0 ** floor(log10(top / 3))
    step = next(times * magnitude for times in (1, 2, 2.5, 5, 10) if times * magnitude >= top / 3)
    return [(step * n, name(step * n)) for n in range(ceil(top / step) + 1)]


# Elements. Values are numbers and texts of ours; what people wrote is escaped.


def _svg(
    title: str,
    *,
    klass: str,
    drawn: Iterable[Markup],
    height: float | None = None,
    view: str | None = None,
) -> Markup:
    room = _attributes({"viewBox": view} if view else {"width": "100%", "height": height})
    return Markup('<svg class="{}" role="img" aria-label="{}"{}>{}</svg>').format(
        klass, title, room, Markup("").join(drawn)
    )


def _tag(name: str, **attributes: object) -> Markup:
    return Markup("<{}{}/>").format(name, _attributes(attributes))


def _text(text: str, *, x: object, y: float, klass: str, anchor: str = "start") -> Markup:
    attributes = _attributes({"x": x, "y": y, "klass": klass, "text_anchor": anchor})
    return Markup("<text{}>{}</text>").format(attributes, text)


def _titled(said: str, *drawn: Markup) -> Markup:
    """Return a group that says something to who points at it."""
    return _group([Markup("<title>{}</title>").format(said), *drawn])


def _group(drawn: Iterable[Markup]) -> Markup:
    return Markup("<g>{}</g>").format(Markup("").join(drawn))


def _attributes(attributes: Mapping[str, object]) -> Markup:
    parts = []
    for name, value in attributes.items():
        shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
        spelled = "class" if name == "klass" else name.replace("_", "-")
        parts.append(Markup(' {}="{}"').format(spelled, str(shown)))
    return Markup("").join(parts)


def _pc(share: float) -> str:
    return f"{share:.3f}%"

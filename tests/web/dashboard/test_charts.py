"""Charts are sound SVG, say what they show, and draw to scale."""

import xml.etree.ElementTree as ET
from datetime import timedelta

import pytest

from proxy.core import batch, job
from proxy.web.dashboard.charts import (
    Bar,
    Part,
    Span,
    bars,
    dots,
    life_line,
    scale_to,
    state_diagram,
    strip,
    transitions,
)
from tests.helpers.factories import T0

HOUR = timedelta(hours=1)


def drawn(svg):
    """Return the chart as a tree: it is well-formed, or this fails."""
    return ET.fromstring(svg)


def marks(svg, kind):
    return [one for one in drawn(svg).iter() if kind in one.get("class", "").split()]


def share(value):
    return float(value.removesuffix("%"))


def titles(svg):
    return [one.text for one in drawn(svg).iter("title")]


def test_bars_are_as_high_as_their_values_and_stand_on_each_other():
    made_of = [
        Bar("1 Nov", "first", [Part(10, "paid"), Part(30, "saved")]),
        Bar("", "second", [Part(20, "paid"), Part(0, "saved")]),
    ]

    svg = bars("Money", made_of, scale=[(0, "$0"), (40, "$40")])

    paid, saved = marks(svg, "paid"), marks(svg, "saved")
    assert float(paid[1].get("height")) == pytest.approx(2 * float(paid[0].get("height")))
    assert float(saved[0].get("y")) + float(saved[0].get("height")) == pytest.approx(
        float(paid[0].get("y"))
    )
    assert titles(svg) == ["first", "second"]
    assert drawn(svg).get("aria-label") == "Money"


def test_what_people_wrote_is_no_markup():
    svg = bars('<script>"', [Bar("<b>", "</title><script>", [Part(1, "paid")])], scale=[(0, "0")])

    assert not list(drawn(svg).iter("script"))
    assert drawn(svg).get("aria-label") == '<script>"'
    assert titles(svg) == ["</title><script>"]


def test_the_parts_of_a_strip_fill_it_by_their_shares():
    svg = strip("Lanes", [(Part(3, "lane-batch"), "three"), (Part(1, "lane-flex"), "one")])

    (three,), (one,) = marks(svg, "lane-batch"), marks(svg, "lane-flex")
    assert share(three.get("width")) == pytest.approx(75)
    assert share(one.get("x")) == pytest.approx(75)


def test_an_empty_strip_and_empty_bars_are_still_charts():
    assert drawn(strip("None", [(Part(0, "live"), "0"), (Part(0, "none"), "")])).tag == "svg"
    assert drawn(bars("None", [], scale=[(0, "$0")])).tag == "svg"


def test_spans_of_a_life_follow_each_other():
    spans = [
        Span(T0, T0 + HOUR, "waiting", "waited"),
        Span(T0 + HOUR, T0 + 4 * HOUR, "working", "at the provider"),
    ]

    svg = life_line("A life", spans, now=T0 + 4 * HOUR)

    (waiting,), (working,) = marks(svg, "waiting"), marks(svg, "working")
    assert share(working.get("x")) == pytest.approx(share(waiting.get("width")), abs=0.1)
    assert share(working.get("width")) == pytest.approx(3 * share(waiting.get("width")), abs=0.1)
    assert len(marks(svg, "now")) == 1


def test_a_deadline_near_by_is_drawn_and_one_far_away_is_not():
    spans = [Span(T0, T0 + HOUR, "waiting", "waited")]

    assert marks(life_line("A life", spans, deadline=T0 + 2 * HOUR), "deadline")
    assert not marks(life_line("A life", spans, deadline=T0 + 26 * HOUR), "deadline")


def test_a_life_that_has_only_begun_can_be_drawn():
    assert drawn(life_line("New", [Span(T0, T0, "waiting", "now")])).tag == "svg"


def test_longer_turnarounds_stand_further_to_the_right():
    spans = [timedelta(seconds=0), timedelta(minutes=7), timedelta(hours=3), timedelta(days=9)]

    places = [share(one.get("cx")) for one in marks(dots("Took", spans, marks=[]), "dot")]

    assert places == sorted(places)
    assert 0 <= places[0] < places[-1] <= 100


@pytest.mark.parametrize("table", [job.TRANSITIONS, batch.TRANSITIONS])
def test_a_state_diagram_draws_every_way_of_its_table_and_no_other(table):
    ways = transitions(table)

    svg = state_diagram("A life", table)

    assert len(marks(svg, "arc")) == len(ways)
    said = set(titles(svg))
    for (source, target), events in ways.items():
        assert f"{source.value} to {target.value}: {', '.join(events)}" in said
    assert [one.text.replace(" ", "_") for one in drawn(svg).iter("text")] == [
        state.value for state in table
    ]


def test_the_state_that_something_is_in_is_marked_and_the_last_ones_look_like_ends():
    svg = state_diagram("A life", job.TRANSITIONS, current=job.JobState.BATCHED)

    boxes = [one for one in marks(svg, "state") if one.tag == "rect"]
    assert [place for place, one in enumerate(boxes) if "current" in one.get("class")] == [1]
    assert sum("end" in one.get("class").split() for one in boxes) == len(job.TERMINAL)


def test_no_arc_leaves_the_picture():
    svg = drawn(state_diagram("A life", job.TRANSITIONS))
    _, _, width, height = map(float, svg.get("viewBox").split())

    for path in svg.iter("path"):
        if path.get("class") == "head":
            continue
        start, bent = path.get("d").removeprefix("M").split("C")
        y, bend = float(start.split()[1]), float(bent.split()[1])
        peak = y + 0.75 * (bend - y)
        assert 0 <= peak <= height
        assert 0 <= float(start.split()[0]) <= width


@pytest.mark.parametrize("top", [0.0003, 1, 2.9, 3, 7, 99, 12345.6])
def test_a_scale_is_round_and_reaches_the_top_but_not_far_beyond(top):
    marks_ = [value for value, _ in scale_to(top, str)]

    assert marks_[0] == 0
    assert marks_[-2] < top <= marks_[-1] * 1.000001
    assert 3 <= len(marks_) <= 5


def test_a_scale_of_nothing_has_its_zero():
    assert scale_to(0, str) == [(0, "0")]

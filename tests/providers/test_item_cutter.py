"""Results in a list within a document, however it is cut into pieces."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.ports.provider import LineKind, ResultLine
from proxy.providers.item_cutter import ItemCutter

TEXT = st.text(max_size=12) | st.sampled_from(['"', "\\", '\\"', "]}", '"results":[{', "\u2028"])
VALUES = st.recursive(
    TEXT | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.lists(st.dictionaries(TEXT, VALUES, max_size=4), max_size=4)


def keep(item: bytes) -> ResultLine:
    return ResultLine(kind=LineKind.ANSWERED, custom_id=None, body=item)


def cut(document: bytes, sizes: list[int], **more) -> list[ResultLine]:
    cutter = ItemCutter("results", **more)
    found, at = [], 0
    for size in [*sizes, len(document)]:
        found += cutter.feed(document[at : at + size])
        at += size
    return found


@given(
    before=st.dictionaries(TEXT.filter(lambda name: name != "results"), VALUES, max_size=3),
    items=ITEMS,
    after=st.dictionaries(TEXT.filter(lambda name: name != "results"), VALUES, max_size=3),
    sizes=st.lists(st.integers(0, 7), max_size=60),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
@example(before={}, items=[{"a": "\\"}], after={}, sizes=[1] * 40, indent=None, ascii_only=True)
@example(
    before={"x": {"results": [{"no": 1}]}, "y": ["results"], "z": "results"},
    items=[{"results": [{"inner": 1}]}, {}],
    after={"w": [{"no": 2}]},
    sizes=[3] * 60,
    indent=None,
    ascii_only=True,
)
def test_items_are_those_of_the_named_list_byte_for_byte(
    before, items, after, sizes, indent, ascii_only
):
    document = {**before, "results": items, **after}
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )

    found = [line.body for line in cut(text, sizes, read=keep)]

    assert [json.loads(body) for body in found] == items
    assert all(body in text for body in found)


@given(
    before=st.dictionaries(TEXT.filter(lambda name: name != "results"), VALUES, max_size=3),
    items=ITEMS,
    after=st.dictionaries(TEXT.filter(lambda name: name != "results"), VALUES, max_size=3),
    sizes=st.lists(st.integers(0, 7), max_size=60),
)
def test_the_outline_is_the_document_without_its_items(before, items, after, sizes):
    cutter = ItemCutter("results", keep)
    text = json.dumps({**before, "results": items, **after}).encode()
    at = 0
    for size in [*sizes, len(text)]:
        cutter.feed(text[at : at + size])
        at += size
    cutter.end()

    assert json.loads(cutter.outline) == {**before, "results": [], **after}


def test_of_a_document_without_the_list_all_is_outline():
    cutter = ItemCutter("results", keep)

    cutter.feed(b'{"id":"b","resu')
    cutter.feed(b'lts":null}')
    cutter.end()

    assert json.loads(cutter.outline) == {"id": "b", "results": None}


@pytest.mark.parametrize("size", [1, 2, 1_000])
def test_results_are_read_as_lines_are(size):
    answer = b'{"id" : "x"}'
    document = (
        b'{"id":"b","results":['
        b'{"custom_id":"job-1","response":{"status_code":200,"body":' + answer + b'},"error":null},'
        b'{"custom_id":"job-2","response":null,"error":{"type":"invalid_request_error"}},'
        b'7,{"custom_id":"job-3"}]}'
    )

    lines = cut(document, [size] * (len(document) // size))

    assert [(line.kind, line.custom_id) for line in lines] == [
        (LineKind.ANSWERED, "job-1"),
        (LineKind.NOT_EXECUTED, "job-2"),
        (LineKind.UNREADABLE, "job-3"),
    ]
    assert lines[0].body == answer
    assert lines[1].error_code == "invalid_request_error"


def test_an_item_without_end_is_not_kept_and_those_behind_it_are_read():
    long = b'{"custom_id":"job-1","x":"' + b"a" * 10_000 + b'"}'
    document = b'{"results":[' + long + b',{"custom_id":"job-2","y":1}]}'
    cutter = ItemCutter("results", item_bytes_max=5_000)

    found, held = [], 0
    for at in range(0, len(document), 100):
        found += cutter.feed(document[at : at + 100])
        held = max(held, len(cutter._held))

    assert [(line.kind, line.custom_id) for line in found] == [
        (LineKind.OVERLONG, "job-1"),
        (LineKind.UNREADABLE, "job-2"),
    ]
    assert held < 5_300


@pytest.mark.parametrize(
    "document", [b"", b"[]", b'{"results":null}', b'{"results":[', b'{"results":{"a":{}}}', b"}}]"]
)
def test_what_holds_no_such_list_holds_no_items(document):
    assert cut(document, []) == []


@pytest.mark.parametrize(
    "inside", [b'{"t":"' + b"x" * 500, b"1," * 250, b'{"t":"' + b"\\\\n" * 200]
)
def test_what_is_looked_through_is_not_looked_through_again(inside):
    cutter = ItemCutter("results")

    for piece in (b'{"results":[', inside, inside[6:], inside[6:]):
        assert cutter.feed(piece) == []
        # Half an escape must be whole first.
        assert len(cutter._held) - cutter._at <= 1


@given(
    before=st.dictionaries(TEXT.filter(lambda name: name != "results"), VALUES, max_size=3),
    items=ITEMS,
    sizes=st.lists(st.integers(0, 7), max_size=60),
)
def test_a_nested_list_is_found_at_any_depth_and_the_first_of_its_name_counts(before, items, sizes):
    text = json.dumps({"a": {"results": {**before, "results": items}}, "b": {"results": [{}]}})

    found = cut(text.encode(), sizes, read=keep, is_nested=True)

    assert [json.loads(line.body) for line in found] == items


def test_a_name_without_end_is_not_kept_and_is_not_taken_for_another():
    name = b"a" * 10_000
    for key in (name, name + b'\\"results', name + b"results"):
        cutter = ItemCutter("results")
        held = 0
        for at in range(0, len(key), 100):
            cutter.feed((b'{"' if at == 0 else b"") + key[at : at + 100])
            held = max(held, len(cutter._held))

        assert held < 4_400
        assert cutter.feed(b'":[{"custom_id":"job-1"}]}') == []
        assert cutter.is_whole

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.globs import MAX_PATTERN, MAX_TEXT, Patterns, check_pattern, compile_glob, exactly

GLOBS = st.text(st.sampled_from("ab*?\\\n"), min_size=1, max_size=8)
TEXTS = st.text(st.sampled_from("ab*?\\\n"), max_size=8)


def naive(glob: str, text: str) -> bool:
    """By the definition, one character at a time."""
    if not glob:
        return not text
    if glob[0] == "*":
        return any(naive(glob[1:], text[n:]) for n in range(len(text) + 1))
    if not text:
        return False
    if glob[0] == "\\":
        return glob[1] == text[0] and naive(glob[2:], text[1:])
    return glob[0] in ("?", text[0]) and naive(glob[1:], text[1:])


@given(GLOBS, TEXTS)
def test_a_compiled_glob_agrees_with_the_definition(glob, text):
    try:
        check_pattern(glob)
    except ValueError:
        return

    assert compile_glob(glob)(text) == naive(glob, text)


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("gpt-5", "gpt-5", "gpt-5-mini"),
        ("gpt-*-mini", "gpt-5-mini", "gpt-5-mini-high"),
        ("*etl*", "my etl/1.0", "my job"),
        ("claude-*", "claude-", "a claude-3"),
        ("*-mini", "gpt-mini", "gpt-mini2"),
        ("v?", "v1", "v12"),
        ("a.c", "a.c", "abc"),
        ("[ab]", "[ab]", "a"),
        (r"\*", "*", "x"),
        (r"\!x", "!x", "x"),
        ("*a*b*", "xaxbx", "xbxax"),
        ("ab*ba", "abba", "aba"),
    ],
)
def test_patterns_as_people_write_them(glob, yes, no):
    assert compile_glob(glob)(yes)
    assert not compile_glob(glob)(no)


@pytest.mark.parametrize("pattern", ["", "!", "a\\", "x" * (MAX_PATTERN + 1)])
def test_a_pattern_that_means_nothing_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)


def test_the_longest_pattern_and_text_do_not_hang():
    glob = "*" + "a?*" * 80 + "b"
    check_pattern(glob)

    assert not compile_glob(glob)("a" * MAX_TEXT)


@given(st.text(st.sampled_from("a*?!\\"), min_size=1, max_size=6), st.text("a*?!\\", max_size=6))
def test_a_pattern_of_one_text_fits_no_other(text, other):
    pattern = exactly(text)

    check_pattern(pattern)
    assert Patterns((pattern,)).matches(text)
    assert Patterns((pattern,)).matches(other) == (other == text)


def test_an_exclusion_beats_what_is_wanted_in_any_order():
    for texts in (("gpt-*", "!*-mini"), ("!*-mini", "gpt-*")):
        assert Patterns(texts).matches("gpt-5")
        assert not Patterns(texts).matches("gpt-5-mini")
        assert not Patterns(texts).matches("claude")


def test_with_exclusions_alone_all_else_is_wanted_but_nothing_missing():
    assert Patterns(("!a", "!b")).matches("c")
    assert not Patterns(("!a", "!b")).matches("b")
    assert not Patterns(("!a",)).matches(None)
    assert not Patterns(("!a",)).match_any(())


def test_of_several_values_one_must_be_wanted_and_none_excluded():
    assert Patterns(("a", "!x")).match_any(["b", "a"])
    assert not Patterns(("a", "!x")).match_any(["a", "x"])
    assert not Patterns(("a", "!x")).match_any(["b"])


def test_a_text_that_is_too_long_matches_presence_only():
    long = "a" * (MAX_TEXT + 1)

    assert Patterns(("*",)).matches(long)
    assert Patterns(("b", "*")).matches(long)
    assert Patterns(("a*",)).matches(long[:-1])
    for texts in (("a*",), ("!b",), ("*", "!b")):
        assert not Patterns(texts).matches(long)

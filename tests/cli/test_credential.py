"""`offramp credential`: tokens are hashed, and nothing else is taken for one."""

import io
import sys

import pytest


@pytest.mark.parametrize("text", ["abc", "abc\n", "Bearer abc\n"])
def test_a_token_is_read_from_standard_input_and_hashed(run, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    code, output, _ = run("credential", "hash")

    assert code == 0
    # The SHA-256 of "abc" as published: FIPS 180-4, example B.1.
    assert output == (b"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n")


@pytest.mark.parametrize(
    "text", ["", "\n", "one two", "one\ntwo", "Bearer one two", "\udcff\udcfe"]
)
def test_what_is_no_token_is_wrong_usage(run, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    assert run("credential", "hash")[0] == 2

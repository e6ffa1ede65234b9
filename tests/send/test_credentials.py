"""Another key is noticed for as long as answers may be owed to an earlier one."""

from proxy.send.credentials import Credentials

KEYS = {"openai": "sk-canary-1", "anthropic": "sk-ant-canary-2"}


def test_a_key_that_was_exchanged_is_named_by_its_provider(tmp_path):
    path = tmp_path / "credentials.json"
    Credentials(path, salt="a").note(KEYS)

    again = Credentials(path, salt="a")

    assert again.exchanged(KEYS) == []
    assert again.exchanged({**KEYS, "openai": "sk-canary-3", "groq": "x"}) == ["openai"]


def test_what_is_noted_tells_no_key_and_no_two_sends_with_the_same(tmp_path):
    for salt in "ab":
        Credentials(tmp_path / salt, salt=salt).note(KEYS)

    first, second = ((tmp_path / salt).read_text() for salt in "ab")

    assert "canary" not in first
    assert not set(first.split()) & set(second.split()) - {'{"openai":', '"anthropic":'}


def test_once_nothing_is_owed_any_key_may_follow(tmp_path):
    path = tmp_path / "credentials.json"
    credentials = Credentials(path, salt="a")
    credentials.note(KEYS)

    credentials.forget()

    assert not credentials
    assert not Credentials(path, salt="a").exchanged({"openai": "sk-canary-3"})


def test_a_file_that_was_damaged_knows_nothing(tmp_path):
    path = tmp_path / "credentials.json"
    path.write_bytes(b"\0\0\0")

    assert not Credentials(path, salt="a")

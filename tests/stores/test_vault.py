"""Keys, sealing and the keyed hash."""

import os
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.core.errors import ConfigError, StoreCorruptError
from proxy.stores.vault import Vault

KEY, OLD, HASH = b"k" * 32, b"o" * 32, b"h" * 32
CONTEXT = "payload:job_1"
PLAIN = b'{"content": "a prompt"}'


def vault(*keys: bytes) -> Vault:
    return Vault(keys=keys or (KEY,), hash_key=HASH)


def line(word: str, key: bytes) -> str:
    return f"{word} {urlsafe_b64encode(key).decode()}\n"


def key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# Sealing


@pytest.mark.parametrize("size", [0, 1, 255, 256, 5_000, 1_000_000])
@pytest.mark.parametrize("compressible", [True, False])
def test_what_was_sealed_opens_again(size, compressible):
    plain = b"x" * size if compressible else os.urandom(size)

    assert vault().open(vault().seal(plain, context=CONTEXT), context=CONTEXT) == plain


def test_many_are_sealed_each_as_it_is_alone():
    texts = [b"", PLAIN, PLAIN * 100, os.urandom(2_300), b"x" * 256, b"y" * 255]

    sealed = vault().seal_many([(text, f"result:{n}") for n, text in enumerate(texts)])

    assert [vault().open(one, context=f"result:{n}") for n, one in enumerate(sealed)] == texts
    assert list(map(len, sealed)) == [len(vault().seal(text, context=CONTEXT)) for text in texts]
    assert len({one[6:18] for one in sealed}) == len(texts), "a nonce is used once"
    assert vault().seal_many([]) == []


def test_nothing_of_the_contents_shows():
    sealed = vault().seal(PLAIN, context=CONTEXT)

    assert not any(PLAIN[start : start + 4] in sealed for start in range(len(PLAIN) - 4))


def test_the_same_value_is_never_sealed_alike():
    assert vault().seal(PLAIN, context=CONTEXT) != vault().seal(PLAIN, context=CONTEXT)


def test_what_compresses_well_is_stored_small_and_the_rest_as_it_is():
    text, noise = PLAIN * 100, os.urandom(2_300)

    assert len(vault().seal(text, context=CONTEXT)) < len(text) / 5
    assert len(vault().seal(noise, context=CONTEXT)) < len(noise) + 50


def test_a_value_that_was_moved_elsewhere_does_not_open():
    sealed = vault().seal(PLAIN, context="payload:job_1")

    for elsewhere in ("payload:job_2", "result:job_1", ""):
        with pytest.raises(StoreCorruptError):
            vault().open(sealed, context=elsewhere)


def test_a_value_with_any_byte_altered_does_not_open():
    sealed = vault().seal(b"x" * 300, context=CONTEXT)

    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(StoreCorruptError):
            vault().open(bytes(altered), context=CONTEXT)


@pytest.mark.parametrize("length", [0, 1, 5, 33])
def test_a_value_that_was_cut_does_not_open(length):
    sealed = vault().seal(PLAIN, context=CONTEXT)

    with pytest.raises(StoreCorruptError):
        vault().open(sealed[:length], context=CONTEXT)


def test_a_refusal_shows_neither_contents_nor_keys():
    sealed = vault().seal(PLAIN, context=CONTEXT)

    with pytest.raises(StoreCorruptError) as refused:
        vault().open(sealed, context="elsewhere")

    assert "prompt" not in f"{refused.value} {refused.value.hint}"
    assert refused.value.__cause__ is None


def test_after_a_rotation_the_new_key_seals_and_the_old_one_still_opens():
    before = vault(OLD).seal(PLAIN, context=CONTEXT)
    rotated = vault(KEY, OLD)

    assert rotated.open(before, context=CONTEXT) == PLAIN
    assert vault(KEY).open(rotated.seal(PLAIN, context=CONTEXT), context=CONTEXT) == PLAIN


def test_a_value_whose_key_was_dropped_says_so():
    before = vault(OLD).seal(PLAIN, context=CONTEXT)

    with pytest.raises(StoreCorruptError, match="key file does not hold") as refused:
        vault(KEY).open(before, context=CONTEXT)

    assert refused.value.hint


def test_threads_can_seal_and_open_at_once():
    shared = vault()
    bodies = [os.urandom(8).hex().encode() * 200 for _ in range(200)]

    def around(body: bytes) -> bytes:
        return shared.open(shared.seal(body, context=CONTEXT), context=CONTEXT)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(around, bodies)) == bodies


# Hashing


def test_equal_parts_and_only_those_hash_alike():
    parts = [("a", "b"), ("ab",), ("a", "b", ""), ("", "a", "b"), ("b", "a"), ("\ud800",), ()]

    digests = [vault().digest(*one) for one in parts]

    assert len(set(digests)) == len(parts)
    assert digests == [vault().digest(*one) for one in parts]
    for digest in digests:
        assert len(digest) == 43
        assert digest.replace("-", "a").replace("_", "a").isalnum()


def test_the_hash_depends_on_its_key_and_not_on_those_that_seal():
    assert vault(KEY).digest("token") == vault(OLD).digest("token")
    assert vault(KEY).digest("token") != Vault(keys=[KEY], hash_key=KEY).digest("token")


# The key file


def test_a_key_file_is_made_for_this_user_only(tmp_path):
    path = tmp_path / "state" / "key"

    made = Vault.load_or_create(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]
    again = Vault.load_or_create(path)
    assert again.open(made.seal(PLAIN, context=CONTEXT), context=CONTEXT) == PLAIN
    assert again.digest("a") == made.digest("a")


def test_two_key_files_hold_different_keys(tmp_path):
    one, two = (Vault.load_or_create(tmp_path / name) for name in "ab")

    assert one.digest("a") != two.digest("a")
    with pytest.raises(StoreCorruptError):
        two.open(one.seal(PLAIN, context=CONTEXT), context=CONTEXT)


def test_of_many_who_make_a_key_file_at_once_all_read_the_same(tmp_path):
    with ThreadPoolExecutor(16) as threads:
        vaults = list(threads.map(Vault.load_or_create, [tmp_path / "key"] * 16))

    assert len({one.digest("a") for one in vaults}) == 1


def test_a_key_file_can_be_rotated_by_hand(tmp_path):
    path = key_file(tmp_path / "key", "# old\n\n" + line("hash", HASH) + line("key", OLD))
    before = Vault.load(path).seal(PLAIN, context=CONTEXT)
    key_file(path, line("key", KEY) + line("hash", HASH) + "\n" + line("key", OLD))

    after = Vault.load(path)

    assert after.open(before, context=CONTEXT) == PLAIN
    assert vault(KEY).open(after.seal(PLAIN, context=CONTEXT), context=CONTEXT) == PLAIN


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666, 0o602])
def test_a_key_file_that_is_open_to_others_is_refused(tmp_path, mode):
    path = key_file(tmp_path / "key", line("hash", HASH) + line("key", KEY), mode)

    with pytest.raises(ConfigError, match="open to others") as refused:
        Vault.load_or_create(path)

    assert refused.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_key_file_that_the_group_reads_is_how_orchestrators_mount_it(tmp_path, mode):
    path = key_file(tmp_path / "key", line("hash", HASH) + line("key", KEY), mode)

    assert Vault.load(path).digest("a") == vault().digest("a")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has 0 and 0"),
        (line("key", KEY), "has 0 and 1"),
        (line("hash", HASH), "has 1 and 0"),
        (line("hash", HASH) + line("hash", KEY) + line("key", KEY), "has 2 and 1"),
        (line("hash", HASH) + "key c2hvcnQ=\n", "line 2"),
        (line("hash", HASH) + "key\n", "line 2"),
        ("\n\nkeys " + "A" * 43 + "\n", "line 3"),
        (line("key", KEY).strip() + " secret\n", "line 1"),
    ],
)
def test_a_malformed_key_file_is_refused_without_showing_it(tmp_path, text, complaint):
    path = key_file(tmp_path / "key", text)

    with pytest.raises(ConfigError, match=complaint) as refused:
        Vault.load(path)

    words = {word for word in text.split() if len(word) > 4}
    assert not any(word in refused.value.message for word in words)


def test_a_key_file_of_bytes_is_refused(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)

    with pytest.raises(ConfigError, match="not a text"):
        Vault.load(path)


def test_a_key_file_that_is_not_there_is_made_only_where_that_was_asked(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Vault.load(tmp_path / "key")
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot be made") as refused:
        Vault.load_or_create(tmp_path / "file" / "key")

    assert refused.value.hint

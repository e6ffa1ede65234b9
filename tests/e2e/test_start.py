"""Starts that cannot succeed: each names its cause, exits, and leaves what was stored intact."""

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.sandbox import SandboxSettings
from proxy.stores.vault import Vault
from tests.e2e.processes import (
    Ended,
    Proxy,
    chat,
    proxy_and_provider,
    results,
    right_answer,
    run,
    settings_for,
)
from tests.helpers.raw_upstream import wait_until
from tests.helpers.sqlite_file import opened

BAD_CONFIGURATION, FAILED = 3, 1
URLS = {"openai": "http://127.0.0.1:9"}


async def serve(folder: Path, settings: dict[str, Any], **env: str) -> Ended:
    """Start a proxy that must not come up."""
    config = folder / "bad.yaml"
    config.write_text(json.dumps(settings))
    ended = await run(folder, "serve", "--config", str(config), env=env)
    assert "Traceback" not in ended.stderr
    assert "a bug" not in ended.stderr
    return ended


async def test_every_error_of_a_configuration_is_told_at_once_and_where(tmp_path: Path) -> None:
    config = tmp_path / "offramp.yaml"
    config.write_text(
        "listen: nowhere\n"
        "batching:\n"
        "  linger: soon\n"
        "  lingr: 5s\n"
        "upstreams:\n"
        "  jobs: {dialect: openai, base_url: 'http://127.0.0.1'}\n"
        "  mine: {dialect: klingon, base_url: 'http://127.0.0.1'}\n"
    )

    ended = await run(tmp_path, "serve", "--config", str(config))

    assert ended.code == BAD_CONFIGURATION
    assert "Traceback" not in ended.stderr
    for place, word in (("1:9", "listen"), ("3:11", "linger"), ("4:3", "lingr"), ("7", "klingon")):
        lines = [line for line in ended.stderr.splitlines() if f"offramp.yaml:{place}" in line]
        assert any(word in line for line in lines), (place, ended.stderr)


async def test_broken_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "offramp.yaml"
    config.write_text("listen: 127.0.0.1:0\nbatching: {linger: 5s\n")

    ended = await run(tmp_path, "serve", "--config", str(config))

    assert ended.code == BAD_CONFIGURATION
    assert "offramp.yaml:" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_configuration_that_is_absent_or_a_bad_variable_is_named(tmp_path: Path) -> None:
    absent = await run(tmp_path, "serve", "--config", str(tmp_path / "none.yaml"))
    variable = await serve(
        tmp_path, settings_for(tmp_path, URLS, {}), OFFRAMP_BATCHING__LINGER="a while"
    )

    assert absent.code in {2, BAD_CONFIGURATION}
    assert "none.yaml" in absent.stderr
    assert variable.code == BAD_CONFIGURATION
    assert "OFFRAMP_BATCHING__LINGER" in variable.stderr


async def test_bad_rules_are_told_with_their_place(tmp_path: Path) -> None:
    rules = tmp_path / "policies.yaml"
    rules.write_text("rules:\n  - name: a\n    when: {modle: gpt-4o}\n    then: {defer: {}}\n")

    ended = await serve(tmp_path, settings_for(tmp_path, URLS, {"policies": str(rules)}))

    assert ended.code == BAD_CONFIGURATION
    assert "policies.yaml:3" in ended.stderr


@pytest.mark.parametrize("workers", [1, 2])
async def test_files_that_are_wrong_inside_are_told_at_once_and_where_they_are_named(
    tmp_path: Path, workers: int
) -> None:
    config, words = tmp_path / "offramp.yaml", tmp_path / "words"
    words.write_text("some words\n")
    words.chmod(0o644)
    config.write_text(
        f"instance: {{workers: {workers}}}\n"
        "store: sqlite:store.db\n"
        "secret_key_file: words\n"
        "tls: {cert_file: words, key_file: words}\n"
    )

    ended = await run(tmp_path, "serve", "--config", str(config))

    assert ended.code == BAD_CONFIGURATION
    assert f"{config}:3:18: secret_key_file: " in ended.stderr
    assert f"{config}:4:18: tls.cert_file: " in ended.stderr


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with proxy_and_provider(tmp_path) as (proxy, provider):
        settings = settings_for(tmp_path, {"openai": provider.base_url}, {})
        authority = proxy.base_url.removeprefix("http://")

        ended = await serve(tmp_path, settings | {"listen": authority})
        status, _ = await chat(proxy, "unharmed", headers={"X-Deferrable": "wait"})

    assert ended.code == BAD_CONFIGURATION
    assert authority in ended.stderr
    assert status == 200


@pytest.mark.parametrize("kind", ["a directory", "below a file"])
async def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "a directory":
        place.mkdir()
    else:
        place.write_text("")
        place /= "offramp.db"

    ended = await serve(tmp_path, settings_for(tmp_path, URLS, {"store": f"sqlite://{place}"}))

    assert ended.code == BAD_CONFIGURATION
    # The key, or the path itself; a long value is cut in the message.
    assert "store: 'sqlite://" in ended.stderr or str(place) in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path) -> None:
    store = tmp_path / "offramp.db"
    content = b"Dear diary, " * 1_000
    store.write_bytes(content)
    key = tmp_path / "offramp.key"

    ended = await serve(tmp_path, settings_for(tmp_path, URLS, {}))

    assert ended.code == BAD_CONFIGURATION
    assert "something else" in ended.stderr
    assert not key.exists(), "it would be in the way of the one that belongs to the store"
    Vault.load_or_create(key)
    ended = await serve(tmp_path, settings_for(tmp_path, URLS, {}))
    assert ended.code == FAILED
    assert "offramp.db" in ended.stderr
    assert store.read_bytes() == content


async def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    store = tmp_path / "offramp.db"
    with opened(store) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    Vault.load_or_create(tmp_path / "offramp.key")

    ended = await serve(tmp_path, settings_for(tmp_path, URLS, {}))

    with opened(store) as other:
        tables = other.execute("SELECT name FROM sqlite_master").fetchall()
    assert ended.code == FAILED
    assert "another program" in ended.stderr
    assert tables == [("songs",)]


async def test_jobs_outlive_every_start_that_failed(tmp_path: Path) -> None:
    """Wrong key file, no key file, newer schema, cut file: mended, the jobs are there."""
    settings = SandboxSettings(turnaround_s=600)
    async with proxy_and_provider(tmp_path, provider_settings=settings) as (proxy, provider):
        _, job = await chat(proxy, "kept", headers={"X-Deferrable": "job"})
        await proxy.terminate()
        await _no_start_with_another_key(proxy)
        await _no_start_with_a_newer_schema(proxy)
        await _no_start_with_a_damaged_file(proxy)

        await proxy.start()
        await wait_until(lambda: proxy.events("batch.submitted"))
        await provider.advance(600)
        [(status, body)] = await results(proxy, [job["id"]])

    assert status == 200
    assert json.loads(body)["choices"][0]["message"]["content"] == right_answer("kept")


async def _no_start_with_another_key(proxy: Proxy) -> None:
    key, kept = proxy.folder / "offramp.key", proxy.folder / "kept.key"
    key.rename(kept)
    ended = await serve(proxy.folder, proxy.settings)
    assert ended.code == BAD_CONFIGURATION
    assert "key file back" in ended.stderr
    assert not key.exists(), "one that opens nothing would hide what is wrong"
    Vault.load_or_create(key)
    ended = await serve(proxy.folder, proxy.settings)
    assert ended.code == FAILED
    assert "another key file" in ended.stderr
    kept.replace(key)


async def _no_start_with_a_newer_schema(proxy: Proxy) -> None:
    store = proxy.folder / "offramp.db"
    kept = store.read_bytes()
    with opened(store) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute(f"PRAGMA user_version = {version + 1}")
    ended = await serve(proxy.folder, proxy.settings)
    assert ended.code == FAILED
    assert "newer" in ended.stderr
    store.write_bytes(kept)


async def _no_start_with_a_damaged_file(proxy: Proxy) -> None:
    store = proxy.folder / "offramp.db"
    kept = store.read_bytes()
    store.write_bytes(kept[: len(kept) // 2])
    damaged = store.read_bytes()
    ended = await serve(proxy.folder, proxy.settings)
    assert ended.code == FAILED
    assert "offramp.db" in ended.stderr
    assert store.read_bytes() == damaged
    store.write_bytes(kept)


@pytest.mark.parametrize("client", ["lean", "aiohttp"])
async def test_without_the_c_parsers_it_does_not_start_and_says_what_to_do(tmp_path, client):
    config = tmp_path / "offramp.yaml"
    config.write_text(f"store: sqlite://{tmp_path}/offramp.db\nforwarding: {{client: {client}}}\n")

    ended = await run(
        tmp_path, "serve", "--config", str(config), env={"AIOHTTP_NO_EXTENSIONS": "1"}
    )

    assert ended.code == 3
    assert "unset AIOHTTP_NO_EXTENSIONS" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1

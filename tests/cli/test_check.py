"""`offramp check`: it refuses what a start would, all at once."""

import json

import pytest

from proxy.stores.vault import Vault
from tests.helpers.certificates import write_certificate


def test_check_prints_every_value_and_its_origin(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFRAMP_LOG__LEVEL", "debug")
    file = tmp_path / "offramp.yaml"
    file.write_text("batching: {linger: 5s}\n")

    code, output, _ = run("check", "--config", file)

    lines = [line.split() for line in output.decode().splitlines()]
    assert code == 0
    assert ["batching.linger", "5s", f"{file}:1:20"] in lines
    assert ["log.level", "debug", "OFFRAMP_LOG__LEVEL"] in lines
    assert ["listen", "127.0.0.1:8080", "default"] in lines


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("secret_key_file: words", "words is open to others"),
        ("secret_key_file: private", "line 1: expected 'key' or 'hash'"),
        ("tls: {cert_file: words, key_file: words}", "words: certificate and key cannot be used"),
        ("admin: {tls: {cert_file: words, key_file: words}}", "certificate and key cannot be used"),
    ],
)
def test_check_refuses_what_a_start_would(run, tmp_path, text, problem):
    (tmp_path / "words").write_text("some words\n")
    (tmp_path / "words").chmod(0o644)
    (tmp_path / "private").write_text("some words\n")
    (tmp_path / "private").chmod(0o600)
    (tmp_path / "offramp.yaml").write_text(text)

    code, _, errors = run("check", "--config", tmp_path / "offramp.yaml")
    json_code, output, _ = run("check", "--json", "--config", tmp_path / "offramp.yaml")

    assert (code, json_code) == (3, 3)
    assert problem in errors
    assert problem in "".join(one["problem"] for one in json.loads(output)["complaints"])


def test_check_takes_files_that_a_start_can_use(run, tmp_path):
    certificate = write_certificate(tmp_path / "tls.pem")
    Vault.load_or_create(tmp_path / "keys")
    (tmp_path / "offramp.yaml").write_text(
        f"{{tls: {{cert_file: {certificate}, key_file: {certificate}}}, secret_key_file: keys}}"
    )

    assert run("check", "--config", tmp_path / "offramp.yaml")[0] == 0


def test_check_speaks_json(run, tmp_path):
    code, output, _ = run("check", "--json")

    content = json.loads(output)
    assert (code, content["usable"]) == (0, True)
    assert {"key": "listen", "value": "127.0.0.1:8080", "origin": "default"} in content["settings"]


def test_check_reads_the_price_list_as_a_start_does(run, tmp_path):
    provider = {
        "address": "https://api",
        "models": [{"match": [["m-1"]], "standard": {"input": 1}}],
    }
    prices = tmp_path / "prices.json"
    prices.write_text(
        json.dumps({"as_of": "2026", "source": "me", "providers": {"openai": provider}})
    )
    config = tmp_path / "offramp.yaml"
    config.write_text(f"prices: {{file: {prices}}}\nstore: sqlite://{tmp_path}/x.db\n")

    code, _, err = run("check", "--config", str(config))

    assert code == 3
    assert f"{config}:1:16: prices.file: {prices} is no price list" in err
    assert "no pattern of a price list: 'm-1'" in err


def test_a_bad_configuration_ends_with_3_and_every_complaint(run, tmp_path):
    file = tmp_path / "offramp.yaml"
    file.write_text("listen: x\nlog: {level: y}\n")

    code, output, errors = run("check", "--config", file)
    json_code, json_output, _ = run("check", "--config", file, "--json")

    assert (code, output, json_code) == (3, b"", 3)
    assert "2 problems" in errors
    assert "`offramp check`" not in errors
    assert f"{file}:1:9: listen" in errors
    assert f"{file}:2:14: log.level" in errors
    content = json.loads(json_output)
    assert content["usable"] is False
    assert [one["key"] for one in content["complaints"]] == ["listen", "log.level"]


def test_check_looks_at_every_file_beside_a_bad_value_and_tells_of_each_once(run, tmp_path):
    rules, words = tmp_path / "rules.yaml", tmp_path / "words"
    rules.write_text("rules:\n  - nam: x\n")
    words.write_text("some words\n")
    file = tmp_path / "offramp.yaml"
    file.write_text(
        "log: {level: y}\n"
        "policies: rules.yaml\n"
        "tls: {cert_file: words, key_file: words}\n"
        "admin: {tls: {cert_file: words, key_file: absent}}\n"
        "prices: {file: nowhere.json}\n"
        "store: redis://host:99999999\n"
    )

    code, output, _ = run("check", "--json", "--config", file)

    complaints = json.loads(output)["complaints"]
    assert code == 3
    assert [(one["place"], one["key"]) for one in complaints] == [
        (f"{file}:1:14", "log.level"),
        (f"{file}:3:18", "tls.cert_file"),
        (f"{file}:4:43", "admin.tls.key_file"),
        (f"{file}:5:16", "prices.file"),
        (f"{file}:6:8", "store"),
        *[(f"{rules}:2:5", "policies")] * 3,
        ("default", "secret_key_file"),
    ]


def test_check_names_rules_that_are_not_there_once(run, tmp_path):
    file = tmp_path / "offramp.yaml"
    file.write_text("policies: absent.yaml\n")

    _, output, _ = run("check", "--json", "--config", file)

    assert [one["key"] for one in json.loads(output)["complaints"]] == ["policies"]


def test_check_knows_whose_prices_there_are(run, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("prices: {providers: {openai: opnai, gemini: google}}\n")

    code, _, err = run("check", "--config", config)

    assert code == 3
    assert err.startswith(
        f"offramp: {config}:1:30: prices.providers.openai: 'opnai' is no provider of the price list"
    )
    assert "google" in err


def test_check_reads_the_url_of_a_redis_as_a_start_would(run, tmp_path, monkeypatch):
    key = tmp_path / "offramp.key"
    Vault.load_or_create(key)
    monkeypatch.setenv("OFFRAMP_SECRET_KEY_FILE", str(key))
    codes = {}
    for url in ("redis://:canary@h/0", "redis://:canary@h/x", "rediss://:canary@h?ca=/no/ca.pem"):
        monkeypatch.setenv("OFFRAMP_STORE", url)
        codes[url], _, errors = run("check")

        assert "canary" not in errors
        assert codes[url] == 0 or "OFFRAMP_STORE: store: " in errors

    assert list(codes.values()) == [0, 3, 3]

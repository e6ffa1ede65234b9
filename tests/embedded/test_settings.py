"""The proxy of a command takes the user's settings, and nothing of anybody else's."""

from datetime import timedelta

import pytest

from proxy.embedded.folder import Folders
from proxy.embedded.settings import LINGER, embedded_settings
from proxy.settings import BadConfigurationError


@pytest.fixture
def environ(tmp_path):
    return {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}


@pytest.fixture
def folder(environ):
    return Folders("runs", environ).new("a")


def test_it_listens_on_free_ports_of_this_machine_and_keeps_jobs_in_its_folder(folder, environ):
    settings = embedded_settings(None, folder, {}, environ)

    assert (str(settings.listen), str(settings.admin.listen)) == ("127.0.0.1:0", "127.0.0.1:0")
    assert settings.store.path == folder.store
    assert set(settings.upstreams) == {"openai", "anthropic", "gemini", "gemini-openai"}


def test_a_configuration_holds_except_for_what_must_be_its_own(folder, environ, tmp_path):
    config = tmp_path / "offramp.yaml"
    config.write_text(
        "listen: 0.0.0.0:80\n"
        "store: redis://elsewhere\n"
        f"secret_key_file: {config}\n"
        "batching: {linger: 3s}\n"
        "upstreams: {my.own: {dialect: openai, base_url: 'http://localhost:1'}}\n"
    )

    settings = embedded_settings(config, folder, {"my.own": "http://localhost:2"}, environ)

    assert settings.batching.linger.total_seconds() == 3
    assert settings.store.path == folder.store
    assert settings.secret_key_file is None
    assert str(settings.listen) == "127.0.0.1:0"
    assert settings.upstreams["my.own"].base_url == "http://localhost:2"
    assert "openai" not in settings.upstreams


def test_what_only_a_service_can_use_is_left_to_it(folder, environ, tmp_path):
    config = tmp_path / "offramp.yaml"
    config.write_text(
        f"tls: &tls {{cert_file: {config}, key_file: {config}}}\n"
        "admin: {tls: *tls}\n"
        "recording: {path: facts.jsonl, sample: 0.5}\n"
    )

    settings = embedded_settings(config, folder, {}, environ)

    assert (settings.tls, settings.admin.tls, settings.recording.path) == (None, None, None)


def test_upstreams_named_elsewhere_are_added_to_the_usual_ones(folder, environ):
    settings = embedded_settings(None, folder, {"openai": "http://localhost:9"}, environ)

    assert settings.upstreams["openai"].base_url == "http://localhost:9"
    assert settings.upstreams["anthropic"].dialect == "anthropic"


def test_an_upstream_of_an_unknown_name_is_refused(folder, environ):
    with pytest.raises(BadConfigurationError, match=r"--upstream: upstreams\.mine\.dialect"):
        embedded_settings(None, folder, {"mine": "http://localhost:2"}, environ)


def test_jobs_wait_for_company_as_long_as_the_user_said_and_else_for_seconds(folder, environ):
    mine = {**environ, "OFFRAMP_BATCHING__LINGER": "3m"}

    assert embedded_settings(None, folder, {}, mine).batching.linger.total_seconds() == 180
    assert embedded_settings(None, folder, {}, environ).batching.linger == LINGER


def test_the_bound_for_strangers_holds_only_if_the_user_set_it(folder, environ):
    mine = {**environ, "OFFRAMP_DEFERRAL__MAX_UNVERIFIED_JOBS": "5"}

    assert embedded_settings(None, folder, {}, mine).deferral.max_unverified_jobs == 5
    usual = embedded_settings(None, folder, {}, environ).deferral
    assert usual.max_unverified_jobs == usual.max_pending_jobs


def test_results_are_kept_as_long_as_the_user_said_and_else_as_the_command_needs(folder, environ):
    mine = {**environ, "OFFRAMP_RETENTION__RESULTS": "3d"}
    month = timedelta(days=30)

    said = embedded_settings(None, folder, {}, mine, results_kept=month)

    assert said.retention.results == timedelta(days=3)
    needed = embedded_settings(None, folder, {}, environ, results_kept=month)
    assert needed.retention.results == month
    assert embedded_settings(None, folder, {}, environ).retention.results == timedelta(days=7)

"""The systemd unit, beyond what `systemd-analyze verify` says of it."""

from datetime import timedelta
from pathlib import Path

from proxy.settings import load
from proxy.settings.values import parse_duration

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "offramp.service"


def directives() -> dict[str, list[str]]:
    """Return every directive of the unit with all its values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_variables_of_the_unit_are_settings(tmp_path):
    words = " ".join(directives()["Environment"])
    words = words.replace("%S", "/var/lib").replace("/var/lib", str(tmp_path))
    environ = dict(word.split("=", 1) for word in words.split())

    settings = load(environ=environ).settings

    assert settings.store.path == tmp_path / "offramp" / "offramp.db"
    assert directives()["StateDirectory"] == ["offramp"]


def test_the_service_has_time_to_drain(tmp_path):
    drain = load(environ={"HOME": str(tmp_path)}).settings.instance.drain_timeout

    assert directives()["KillSignal"] == ["SIGTERM"]
    assert parse_duration(directives()["TimeoutStopSec"][0]) >= drain + timedelta(seconds=10)


def test_the_service_has_a_user_of_its_own_and_no_right_that_it_does_not_need():
    unit = directives()

    assert unit["DynamicUser"] == ["yes"]
    assert unit["CapabilityBoundingSet"] == [""]
    assert unit["ProtectSystem"] == ["strict"]
    for name in ("NoNewPrivileges", "PrivateTmp", "MemoryDenyWriteExecute", "ProtectHome"):
        assert unit[name] == ["yes"]
    # Without /proc/stat the metrics of the process would be gone.
    assert "ProcSubset" not in unit

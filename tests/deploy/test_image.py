"""The image, as far as it can be judged without an engine.

That its steps work is shown by `python -m tests.deploy.clean_root`.
"""

import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy.settings import load
from proxy.stores.vault import Vault
from tests.deploy.clean_root import instructions

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent

STEPS = list(instructions((ROOT / "Dockerfile").read_text()))
FINAL = STEPS[max(at for at, (word, _) in enumerate(STEPS) if word == "FROM") :]
LOCKED = re.compile(
    r"^([a-z0-9.-]+)==(\S+) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", re.MULTILINE
)


def only(word: str) -> str:
    """Return the arguments of the one such instruction of the last stage."""
    (rest,) = [rest for name, rest in FINAL if name == word]
    return rest


def locked(name: str) -> dict[str, str]:
    return dict(LOCKED.findall((DEPLOY / name).read_text()))


def test_the_linter_of_dockerfiles_has_nothing_to_say():
    done = subprocess.run(
        [TOOLS / "hadolint", "--no-color", ROOT / "Dockerfile"],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_process_is_started_without_a_shell_as_somebody_who_is_not_root():
    assert json.loads(only("ENTRYPOINT")) == ["/opt/offramp/bin/offramp"]
    assert json.loads(only("CMD")) == ["serve"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", only("USER"))
    assert only("STOPSIGNAL") == "SIGTERM"


def test_the_last_stage_installs_nothing():
    commands = " ".join(rest for word, rest in FINAL if word == "RUN")

    assert "useradd" in commands
    assert not re.search(r"\b(apt|apt-get|pip|curl|wget|gcc|make)\b", commands)


def test_whatever_comes_from_an_index_comes_by_hash_and_as_a_wheel():
    commands = [part for word, rest in STEPS if word == "RUN" for part in rest.split("&&")]
    installs = [part.split() for part in commands if re.search(r"pip .*\b(install|wheel)\b", part)]

    assert len(installs) == 4
    for words in installs:
        assert {"--require-hashes", "--only-binary=:all:"} <= set(words) or "--no-index" in words


def test_the_lock_holds_what_the_project_asks_for_in_versions_that_it_allows():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = {
        "requirements.txt": project["project"]["dependencies"],
        "requirements-build.txt": project["build-system"]["requires"],
    }

    # What these need in turn is held by hash too: pip refuses to install anything else.
    for name, texts in asked.items():
        versions = locked(name)
        for text in texts:
            need = Requirement(text)
            assert need.specifier.contains(versions[canonicalize_name(need.name)]), text


def test_the_lock_holds_what_its_distributions_ask_for_on_the_oldest_python():
    """Debian 12 has 3.11.2, below which some of them want more than on a later 3.11."""
    debian = {"python_full_version": "3.11.2", "extra": ""}
    versions = locked("requirements.txt")
    # Not all are installed here: what is for an older Python alone is not.
    found = [each for each in distributions() if canonicalize_name(each.name) in versions]
    needs = [Requirement(text) for each in found for text in each.requires or ()]

    assert len(found) > len(versions) - 3
    assert [
        str(need)
        for need in needs
        if (need.marker is None or need.marker.evaluate(debian))
        and canonicalize_name(need.name) not in versions
    ] == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_a_lock_holds_nothing_but_versions_and_hashes(name):
    rest = LOCKED.sub("", (DEPLOY / name).read_text())

    assert [line for line in rest.splitlines() if not line.lstrip().startswith("#")] == []


def test_what_is_copied_passes_the_ignore_file_and_secrets_do_not():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for word, rest in STEPS
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]

    assert ignored[ignored.index("*") - 1].startswith("#")
    for source in copied:
        assert (ROOT / source).exists()
        assert any(f"!{place}" in ignored for place in (source, str(Path(source).parent)))
    assert not any(line.startswith("!deploy/secrets") for line in ignored)


def test_the_configuration_in_the_image_loads(tmp_path):
    text = (DEPLOY / "image" / "offramp.yaml").read_text()
    config = tmp_path / "offramp.yaml"
    config.write_text(text.replace("/var/lib/offramp", str(tmp_path)))

    settings = load(config, environ={}).settings

    assert str(settings.listen) == "0.0.0.0:8080"
    assert f":{settings.admin.listen.port}" in ":8081"
    assert only("EXPOSE").split() == [
        str(settings.listen.port),
        str(settings.admin.listen.port),
    ]
    assert "sqlite:///var/lib/offramp/" in text
    assert only("VOLUME") == "/var/lib/offramp"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/livez" and self.server.live else 503)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize(("live", "code"), [(True, 0), (False, 1), (None, 1)])
def test_the_health_check_asks_whether_the_instance_lives(live, code):
    health = only("HEALTHCHECK")
    _, *words = json.loads(health[health.index("[") :])
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.live = live  # type: ignore[attr-defined]
        port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        if live is not None:
            thread.start()
        else:
            server.server_close()
        # A proxy of the environment must not be asked.
        environment = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        command = [word.replace("8081", str(port)) for word in words]
        done = subprocess.run([sys.executable, *command], check=False, env=environment)
        if live is not None:
            server.shutdown()
            thread.join()

    assert done.returncode == code


def test_a_new_key_file_opens_what_it_sealed_and_never_replaces_another(tmp_path):
    path = tmp_path / "offramp.key"
    command = [DEPLOY / "new-key.sh", path]

    first = subprocess.run(command, check=False, capture_output=True)
    made = path.read_bytes()
    second = subprocess.run(command, check=False, capture_output=True)

    vault = Vault.load(path)
    assert vault.open(vault.seal(b"text", context="a"), context="a") == b"text"
    assert (first.returncode, second.returncode) == (0, 1)
    assert path.read_bytes() == made

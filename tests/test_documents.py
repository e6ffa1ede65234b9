"""The documents are true: what they show runs, what they link is there.

Every block of every Markdown file is tried in the way of its language. A language
that is not known here fails, so that no block goes untried.
"""

import ast
import asyncio
import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from policies.cases import run_cases
from policies.load import load_policies
from proxy.app import serving
from proxy.sandbox import Running as Provider
from proxy.sandbox import Sandbox, SandboxSettings
from proxy.settings import Settings, load
from proxy.settings.load import NOT_SETTINGS
from tests.callers.clients import NODE as CALLERS
from tests.deploy.generated import PARTS, current, settings_rows

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent

DOCUMENTS = [
    *(
        ROOT / name
        for name in subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "*.md", "*llms.txt"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
    )
]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


@dataclass(frozen=True)
class Block:
    """One fenced block and where it stands."""

    place: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text()
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            place = f"{document.relative_to(ROOT)}:{line}"
            yield Block(place, found[1], found[2])


BLOCKS = list(blocks())


def of(*languages: str) -> Any:
    """Return the marker that runs a test for each block in one of these languages."""
    chosen = [block for block in BLOCKS if block.language in languages]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: block.place)


def test_every_block_is_in_a_language_that_is_tried():
    strange = {b.place: b.language for b in BLOCKS if b.language not in TRIED}

    assert strange == {}
    assert len(BLOCKS) >= 20


# Python: against a real proxy, with a provider in a sandbox behind it.


@asynccontextmanager
async def at_hand(folder: Path) -> AsyncIterator[tuple[str, Provider]]:
    """Run what the programs in the documents call; yield its URL, and the provider behind."""
    async with Sandbox(SandboxSettings(turnaround_s=0.2)).serve() as provider:
        names = ("openai", "anthropic")
        settings = Settings.model_validate(
            {
                "listen": "127.0.0.1:0",
                "admin": {"listen": "127.0.0.1:0"},
                "store": f"sqlite://{folder}/offramp.db",
                "upstreams": {
                    name: {"dialect": name, "base_url": provider.base_url} for name in names
                },
                "batching": {
                    "linger": "200ms",
                    "linger_max": "200ms",
                    "poll_interval": "200ms",
                    # One job alone would go to the flex tier, at the same price.
                    "worth": 1,
                },
            }
        )
        async with serving(settings) as proxy:
            yield proxy.base_url, provider


async def try_program(block: Block, folder: Path, *command: str) -> None:
    """Run a program that makes one call at once and one later."""
    async with at_hand(folder) as (base_url, provider):
        program = block.text.replace("http://127.0.0.1:8080", base_url)
        assert program != block.text
        keys = {f"{name}_API_KEY": "sk-of-a-document" for name in ("OPENAI", "ANTHROPIC")}
        process = await asyncio.create_subprocess_exec(
            *(*command, program),
            cwd=folder,
            env={"PATH": os.environ["PATH"], **keys},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        bought = {entry.batch_id is not None for entry in provider.ledger.entries()}

    assert (process.returncode, errors.decode()) == (0, "")
    assert output.strip()
    # The first call went straight through, the other one into a batch.
    assert bought == {False, True}


@of("python")
async def test_every_program_runs_and_prints_an_answer(block, tmp_path):
    await try_program(block, tmp_path, sys.executable, "-W", "error", "-c")


@of("sh")
async def test_every_program_for_a_shell_runs_and_prints_an_answer(block, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    await try_program(block, tmp_path, "bash", "-euo", "pipefail", "-c")


# What `deploy/setup.sh callers` installs, with a Node that is new enough for it.
NODE_MODULES = Path(os.environ.get("TEST_NODE_MODULES", CALLERS / "node_modules"))
NODE = shutil.which("node", path=NODE_MODULES / ".bin") or shutil.which("node")


@of("js")
async def test_every_program_for_node_runs_and_prints_an_answer(block, tmp_path):
    if NODE is None or not (NODE_MODULES / "openai").exists():
        pytest.skip("no node with the package openai; TEST_NODE_MODULES says where it is")
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    await try_program(block, tmp_path, NODE, "--input-type=module", "-e")


@of("js")
def test_every_program_for_node_can_be_parsed(block, tmp_path):
    if NODE is None:
        pytest.skip("no node")
    program = tmp_path / "program.mjs"
    program.write_text(block.text)
    subprocess.run([NODE, "--check", program], check=True)


# Shell: for real where it can be, in a copy of the checkout that may be written to.
# What would build, install or talk to a cluster only says that it was called.

_RECORDED = ("docker", "kubectl", "helm", "sudo", "systemctl", "python", "promtool")
_RECORDED_SCRIPTS = ("deploy/setup.sh", "deploy/lock.sh", ".venv/bin/python")


@dataclass(frozen=True)
class Checkout:
    """A folder in which a reader could type what a document says."""

    folder: Path
    log: Path

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.folder}/.bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "OPENAI_API_KEY": "sk-of-a-document",
            # The code of this checkout, wherever the command was installed from.
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )

    def recorded(self) -> list[list[str]]:
        text = self.log.read_text() if self.log.exists() else ""
        return [line.split("\t") for line in text.splitlines()]


@pytest.fixture
def checkout(tmp_path):
    log = tmp_path / "log"
    folder = tmp_path / "checkout"
    recorder = f"#!/bin/bash\n(IFS=$'\\t'; echo \"$0\t$*\") >> {log}\n"
    for place in (*(f".bin/{name}" for name in _RECORDED), *_RECORDED_SCRIPTS):
        script = folder / place
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(recorder)
        script.chmod(0o755)
    for place in (".bin/offramp", ".venv/bin/offramp"):
        (folder / place).symlink_to(TOOLS / "offramp")
    shutil.copytree(
        ROOT / "deploy",
        folder / "deploy",
        ignore=lambda _, names: {"setup.sh", "lock.sh", "secrets"} & set(names),
        dirs_exist_ok=True,
    )
    return Checkout(folder, log)


@of("bash")
def test_every_command_works_as_it_is_written(block, checkout):
    done = checkout.run(block.text)

    assert (done.returncode, done.stderr) == (0, "")
    for name, *words in checkout.recorded():
        if name.startswith(("deploy/", ".venv/")):
            assert os.access(ROOT / name, os.X_OK) or name == ".venv/bin/python"
        for word in words:
            # A file of this repository, or one that the block itself has made.
            if word.startswith(("deploy/", "tests/")) or word.endswith((".yaml", ".key")):
                path = word.partition("=")[2] or word
                if path != "offramp.key":
                    assert (checkout.folder / path).exists() or (ROOT / path).exists(), word
        if "-m" in words:
            module = words[words.index("-m") + 1].replace(".", "/")
            assert (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists()


@pytest.mark.parametrize("script", sorted((ROOT / "deploy").glob("*.sh")), ids=lambda p: p.name)
def test_every_script_is_a_program(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


# YAML: by what it is about.


@of("yaml")
def test_every_configuration_loads(block, tmp_path):
    for content in YAML(typ="safe").load_all(block.text):
        if "rules" in content:
            _try_policies(block)
        elif "apiVersion" in content:
            kubernetes_validate.validate(content, "1.37", strict=True)
        elif "scrape_configs" in content:
            # Alerts and panels ask for this name.
            assert [job["job_name"] for job in content["scrape_configs"]] == ["offramp"]
        else:
            _try_settings(content, tmp_path)


def _try_policies(block: Block) -> None:
    file = load_policies(block.text, block.place)
    assert [result for result in run_cases(file.rules, file.cases) if not result.passed] == []


def _try_settings(content: dict[str, Any], folder: Path) -> None:
    config = folder / "offramp.yaml"
    # JSON is YAML.
    config.write_text(json.dumps(_with_files(content, folder)))

    load(config, environ={"HOME": str(folder)})


def _with_files(content: Any, folder: Path) -> Any:
    """Put every file that a configuration names into `folder`, and name it there."""
    if not isinstance(content, dict):
        return content
    changed = {}
    for key, value in content.items():
        if key == "policies" or key.endswith("_file"):
            path = folder / value.lstrip("/").replace("/", "-")
            path.write_text("rules: []\n" if key == "policies" else SECRET)
            changed[key] = str(path)
        elif key == "store" and value.startswith("sqlite:"):
            changed[key] = f"sqlite://{folder}/offramp.db"
        else:
            changed[key] = _with_files(value, folder)
    return changed


def test_every_json_text_is_one():
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)


TRIED = {"python", "py", "js", "sh", "bash", "yaml", "json", "mermaid"}
"""Mermaid is made from the tables of the core, and compared below; `py` is a piece of the code,
which `tests/providers/test_openai_clones.py` puts where the document says that it belongs."""


# Links.


def slug(heading: str) -> str:
    """Return the anchor of a heading as forges make it."""
    text = re.sub(r"[^\w\s-]", "", heading.strip().lower().replace("`", ""))
    return re.sub(r"\s", "-", text)


def anchors(document: Path) -> set[str]:
    text = _BLOCK.sub("", document.read_text())
    return {slug(found) for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_of_the_repository_leads_somewhere(document):
    text = _BLOCK.sub("", document.read_text())
    dead = []
    for target in _LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (document.parent / path).resolve() if path else document
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            dead.append(target)

    assert dead == []


# What is made from the code.


@pytest.mark.parametrize("name", PARTS)
def test_what_is_made_from_the_code_is_current(name):
    document, make = PARTS[name]

    assert current(name, (ROOT / document).read_text()) == make(), (
        "`python -m tests.deploy.generated` renews it"
    )


def test_mermaid_is_never_drawn_by_hand():
    drawn = {block.text for block in BLOCKS if block.language == "mermaid"}
    made = "".join(make() for _, make in PARTS.values())

    assert drawn
    assert all(text in made for text in drawn)


def test_every_key_has_a_meaning():
    assert [key for key, _, meaning in settings_rows() if not meaning] == []


_CODE = re.compile(r"^[a-z]+(_[a-z]+)*$")

_TOLD_TO_NO_CALLER = {"bad_configuration", "bad_policies", "lease_lost"}


def _codes_of_errors():
    """Return the codes that errors are given by their class or where they are raised."""
    for room in ("core", "ports", "services", "web"):
        for file in (ROOT / "proxy" / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                value = None
                if isinstance(node, ast.keyword | ast.Assign):
                    name = (
                        node.arg if isinstance(node, ast.keyword) else ast.unparse(node.targets[0])
                    )
                    value = node.value if name == "code" else None
                elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Refusal":
                    value = node.args[1]
                for part in ast.walk(value) if value is not None else ():
                    if isinstance(part, ast.Constant) and _CODE.match(str(part.value)):
                        yield part.value


def test_every_error_code_is_documented_and_no_other():
    text = (ROOT / "deploy" / "README.md").read_text()
    table = text.partition("### Every error code")[2].partition("## What is checked")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {code for row in rows for code in re.findall(r"`(\w+)`", row)}

    # Of what a job fails by, some is no error's.
    assert (
        documented - {"timeout", "answer_too_long"} == set(_codes_of_errors()) - _TOLD_TO_NO_CALLER
    )


def test_every_variable_of_the_command_line_is_documented():
    text = (ROOT / "deploy" / "README.md").read_text()

    assert [name for name in sorted(NOT_SETTINGS) if f"`{name}`" not in text] == []


def test_every_key_of_the_table_is_one_that_the_settings_know(tmp_path):
    effective = load(environ={"HOME": str(tmp_path)}).effective()
    listed = {key for key, *_ in settings_rows()}

    for one in effective:
        # What is below names of the operator's choice stands there once, for any name; of
        # what is left out, the parts.
        if one.key not in {"webhooks", "prices.models"} and not one.key.startswith("upstreams."):
            assert one.key in listed or any(key.startswith(f"{one.key}.") for key in listed)


def test_every_test_that_is_named_as_a_proof_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "proxy" / "README.md").read_text()))
    defined = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }

    assert len(named) >= 40
    assert named - defined == set()


def test_the_table_of_rooms_names_every_room():
    rooms = {path.stem for path in (ROOT / "proxy").iterdir() if not path.name.startswith("_")}
    rooms -= {"py", "README"}
    head = (ROOT / "proxy" / "README.md").read_text().partition("## The life of a job")[0]

    assert {room for room in rooms if f"`{room}`" not in head} == set()

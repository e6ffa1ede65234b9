"""What holds for the repository as a whole."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from proxy.telemetry import EVENTS, METRICS
from proxy.telemetry.events import UNLISTED
from proxy.telemetry.metric_list import Kind

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()

TOP_LEVEL = {
    *("proxy", "policies", "tests", "deploy"),
    *("Dockerfile", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"),
}

TESTED_BY = {
    # One thing to those who use it, and tested as one.
    "proxy/cli/": "tests/cli/",
    "proxy/demo/": "tests/test_demo.py",
    "proxy/settings/": "tests/settings/",
    "proxy/providers/gemini_files.py": "tests/providers/test_gemini_batches.py",
    "proxy/telemetry/": "tests/test_telemetry.py",
    "proxy/sandbox/": "tests/sandbox/",
    "proxy/web/synthesis/": "tests/web/test_synthesis_chat.py",
    # Bounds alone, which all stores keep.
    "proxy/core/leases.py": "tests/contract/test_lease_store.py",
    # What is shown, and when, takes a command that waits on a terminal.
    "proxy/embedded/progress.py": "tests/e2e/test_run.py",
    "proxy/run/session.py": "tests/e2e/test_run.py",
    # What is sent, kept and collected takes a proxy, and something that ends it.
    "proxy/send/errors.py": "tests/e2e/test_send.py",
    "proxy/send/session.py": "tests/e2e/test_send.py",
    # How a call is finished shows in what is booked of it.
    "proxy/services/direct/finish.py": "tests/services/direct/test_escalate_booked.py",
    # Every adapter of a port is held to one suite.
    "proxy/ports/": "tests/contract/",
    "proxy/stores/sqlite/": "tests/contract/",
    "proxy/stores/redis/": "tests/contract/",
    # Three facts, and seen by where the channel goes.
    "proxy/providers/site.py": "tests/providers/test_channel.py",
    # What the front does with a call that it does not forward at once.
    "proxy/web/entrance/deferrer.py": "tests/web/entrance/test_front.py",
    "proxy/web/entrance/incoming.py": "tests/web/entrance/test_front.py",
    # The server is seen by what its connections do.
    "proxy/web/entrance/connection.py": "tests/web/entrance/test_server.py",
    # Seen by what becomes of a connection whose caller takes nothing.
    "proxy/web/entrance/write_progress.py": "tests/web/entrance/test_server.py",
    # What calls with one head share, and how their connection is asked for.
    "proxy/web/entrance/heads.py": "tests/web/entrance/test_deferred_shortcut.py",
    "proxy/web/forwarding/downstream.py": "tests/web/forwarding/test_shortcut.py",
    # Which calls are one shows in how many jobs are made of them.
    "proxy/services/deferral/keys.py": "tests/services/deferral/test_accept.py",
    # What sending a batch and searching for it share.
    "proxy/services/batches/steps.py": "tests/services/batches/test_submit.py",
    # How a batch is asked after, for those who ask.
    "proxy/services/batches/at_provider.py": "tests/services/batches/test_collect.py",
    "proxy/services/deferral/terms.py": "tests/services/deferral/test_accept.py",
    # The other client's half of a call.
    "proxy/upstreams/aiohttp_response.py": "tests/upstreams/test_aiohttp_client.py",
    # The caller's half of what is forwarded.
    "proxy/web/forwarding/relay.py": "tests/web/forwarding/test_forward.py",
    # How errors of ours are written, of calls that were to be forwarded above all.
    "proxy/web/pages.py": "tests/web/forwarding/test_forward.py",
    # One record, which every page shows.
    "proxy/web/dashboard/about.py": "tests/web/dashboard/test_pages.py",
    # The whole house, which only a running process can prove.
    "proxy/app/": "tests/e2e/",
    "proxy/operators.py": "tests/e2e/",
    "proxy/assembly/": "tests/e2e/",
    # Nothing goes through it that the contract of its adapters does not see.
    "proxy/providers/calls.py": "tests/contract/test_provider.py",
    "proxy/providers/_wire.py": "tests/providers/test_wire.py",
    # Its bounds hold for callers whose credentials `accounts` knows, and are asked for there.
    "proxy/services/callers/quota.py": "tests/services/callers/test_accounts.py",
    # Records without behaviour: what each does stands in the table of the batch.
    "proxy/core/batch_events.py": "tests/core/test_batch.py",
}
"""Modules without a test file of their own, and what tests them instead."""


CROWDED = 18
"""In a room with more modules than these, names alone do not say where something is."""


def modules() -> Iterator[str]:
    for package in ("proxy", "policies"):
        for file in sorted((ROOT / package).rglob("*.py")):
            if not file.name.startswith("__"):
                yield file.relative_to(ROOT).as_posix()


def checked_by(module: str) -> Path:
    """Return what tests a module: by the table above, or by its name."""
    for prefix, test in TESTED_BY.items():
        if module.startswith(prefix):
            return ROOT / test
    package, _, rest = module.partition("/")
    own = ROOT / "tests" / ("policies" if package == "policies" else "") / rest
    return own.with_name(f"test_{own.name}")


def trees() -> Iterator[tuple[str, ast.AST]]:
    for module in modules():
        yield module, ast.parse((ROOT / module).read_text())


def calls_of(*methods: str) -> Iterator[tuple[str, ast.Call]]:
    """Return every call of a method of one of these names, with its place."""
    for module, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in methods:
                yield f"{module}:{node.lineno}", node


def owner_of(call: ast.Call) -> str:
    """Return the last name before the method, e.g. `tally` of `self._ground.tally.count`."""
    assert isinstance(call.func, ast.Attribute)
    below = call.func.value
    if isinstance(below, ast.Attribute):
        return below.attr.lstrip("_")
    return below.id.lstrip("_") if isinstance(below, ast.Name) else ""


def test_a_crowded_room_says_where_everything_is():
    missing: dict[str, list[str]] = {}
    for room in sorted((ROOT / "proxy").rglob("__init__.py")):
        own = [file.stem for file in room.parent.glob("*.py") if not file.stem.startswith("__")]
        if len(own) <= CROWDED:
            continue
        # `…_lines` stands for all that end so.
        named = re.findall(r"[\w…]+", ast.get_docstring(ast.parse(room.read_text())) or "")
        patterns = [name.replace("…", "*") for name in named]
        lost = [name for name in own if not any(fnmatchcase(name, one) for one in patterns)]
        missing |= {room.parent.relative_to(ROOT).as_posix(): lost} if lost else {}

    assert missing == {}


def test_the_top_level_holds_what_was_agreed_and_nothing_else():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()

    top = {path.partition("/")[0] for path in tracked}

    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_every_module_has_a_test_file_or_an_entry_that_says_what_tests_it():
    missing = {module: test for module in modules() if not (test := checked_by(module)).exists()}

    assert missing == {}


def test_no_entry_outlives_its_module():
    assert [one for one in TESTED_BY if not any(name.startswith(one) for name in modules())] == []


def test_events_in_the_code_are_those_of_the_closed_list():
    unlisted, used = [], set()
    for place, call in calls_of("debug", "info", "warning", "error", "critical", "exception"):
        if owner_of(call) not in {"log", "report"} or not call.args:
            continue
        name = call.args[0]
        if isinstance(name, ast.Constant) and name.value in EVENTS:
            used.add(name.value)
        else:
            unlisted.append(f"{place}: {ast.unparse(name)}")

    assert unlisted == []
    assert "pass.failed" in used


def test_no_event_is_listed_that_nothing_logs():
    files = [path for path in (ROOT / "proxy").rglob("*.py") if path.name != "events.py"]
    code = "".join(path.read_text() for path in files)

    assert {name for name in EVENTS - {UNLISTED} if f'"{name}"' not in code} == set()


def test_counts_in_the_code_are_those_of_the_closed_list():
    wrong = []
    for place, call in calls_of("count"):
        if owner_of(call) not in {"tally", "metrics"} or not call.args:
            continue
        name = call.args[0]
        metric = METRICS.get(str(name.value)) if isinstance(name, ast.Constant) else None
        labels = {keyword.arg for keyword in call.keywords}
        if metric is None or metric.kind is not Kind.COUNTER or set(metric.labels) != labels:
            wrong.append(f"{place}: {ast.unparse(call)}")

    assert wrong == []


def test_no_metric_is_listed_that_nothing_moves():
    code = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))

    # Each stands in the list itself, too.
    assert {name for name in METRICS if code.count(f'"{name}"') < 2} == set()


def test_layers_import_downwards_only():
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout


def test_every_dependency_has_a_reason():
    lines = PYPROJECT.splitlines()
    needed = re.compile(r'\s+"([A-Za-z0-9_.-]+)[><=!~]')
    without = []
    for at, line in enumerate(lines):
        found = needed.match(line)
        if found is None:
            continue
        above = at - 1
        # One reason may stand for a few that belong together.
        while needed.match(lines[above]):
            above -= 1
        if not lines[above].lstrip().startswith("#"):
            without.append(found[1])

    # The plugin that pytest needs for coroutines follows pytest itself.
    assert [name for name in without if name not in {"pytest", "pytest-asyncio"}] == []


def test_every_dependency_is_bounded():
    project = tomllib.loads(PYPROJECT)["project"]

    # A zone database has no interface that could break; newer is always better.
    unbounded = [need for need in project["dependencies"] if "<" not in need]
    assert unbounded == ["tzdata>=2026.1"]


def test_the_wheel_holds_our_packages_and_nothing_that_runs_by_itself(tmp_path):
    if find_spec("hatchling"):
        build = ["hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    else:
        # Gets the build back end first, into an environment of its own.
        build = ["pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), "."]
    subprocess.run([sys.executable, "-m", *build], cwd=ROOT, check=True, capture_output=True)

    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {
        "proxy",
        "policies",
        next(name.partition("/")[0] for name in names if ".dist-info/" in name),
    }
    assert [name for name in names if name.endswith((".pth", ".so", ".pyc"))] == []
    pages = {f"proxy/web/dashboard/{name}" for name in ("static/style.css", "templates/base.html")}
    assert {"proxy/__init__.py", "proxy/py.typed", "policies/py.typed", *pages} <= set(names)

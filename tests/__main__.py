"""Everything that CI runs, in one command: `python -m tests`.

Each step must pass before the next one begins; the exit code is that of the step
that failed. Arguments go to pytest. Its closing line is the last line printed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent

# Three processes for the two cores of the runners, since many tests wait for a process or a
# socket. Each has a third of the files in a row, since fixtures of a file are expensive where
# they exist; whoever is done takes half of what another has left, file or not: by whole files,
# and those of the most tests first, one process was alone at last with the slowest tests of all.
PYTEST = ("-q", "-n", os.environ.get("TEST_PROCESSES", "3"), "--dist", "worksteal")


PROGRAMS = ("redis-server", "chromium", "nginx")
"""The store of a fleet, the browser that the dashboard is looked at with, and a server that
must read what is forwarded as we do; Debian calls the packages the same."""


def steps(pytest_arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return every step by name; the quick ones, and those that fail most, first."""
    return [
        ("format", [str(TOOLS / "ruff"), "format", "--check", "."]),
        ("lint", [str(TOOLS / "ruff"), "check", "."]),
        ("types", [sys.executable, "-m", "mypy"]),
        ("layers", [str(TOOLS / "lint-imports")]),
        ("tests", [sys.executable, "-m", "pytest", *PYTEST, *pytest_arguments]),
    ]


def ensure_programs() -> None:
    """Get what is no Python package, if that is possible; tests that need one say so themselves."""
    missing = [name for name in PROGRAMS if not _found(name)]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        # No service must be started: tests start their own processes.
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for words in (["apt-get", "update", "-q"], command):
            subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False)
    for name in missing:
        if not _found(name):
            print(f"warning: no {name}; install it by: sudo {' '.join(command)}", flush=True)


def _found(name: str) -> bool:
    # Servers lie where not every account looks for programs.
    return bool(shutil.which(name) or shutil.which(name, path="/usr/sbin"))


def main(arguments: Sequence[str]) -> int:
    """Run all steps and return the first exit code that is not 0."""
    ensure_programs()
    for name, words in steps(arguments):
        print(f"== {name}", flush=True)
        code = subprocess.run(words, cwd=ROOT, check=False).returncode
        if code != 0:
            shown = " ".join([Path(words[0]).name, *words[1:]])
            print(f"== {name} failed with {code}: {shown}", flush=True)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

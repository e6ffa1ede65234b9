"""Carry out the Dockerfile without an engine, in a clean Debian root, and run what it makes.

    python -m tests.deploy.clean_root ROOT SCRATCH

ROOT is a folder as debootstrap leaves it, with Python in /usr/local as the base image
has it. Both stages are copies of it under SCRATCH. The result is then run as an engine
would: as PID 1 of its own namespaces, as the image's user, over a root that cannot be
written, with the image's health check and its stop signal. Needs root privileges and a
package index; takes a minute. Not collected by pytest.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]

Instruction = tuple[str, str]


def instructions(text: str) -> Iterator[Instruction]:
    """Return each instruction of a Dockerfile with its arguments, joined to one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    for line in joined.splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


@dataclass
class Stage:
    """One stage: a root, and what holds for whatever runs in it."""

    root: Path
    workdir: str = "/"
    user: str = "0:0"
    stop_signal: str = "SIGTERM"
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def words(self, command: list[str]) -> list[str]:
        """Return what runs `command` inside, as the stage's user."""
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        inside = ["chroot", f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-i"]
        return [*inside, "-C", self.workdir, *environment, *command]

    def run(self, command: str) -> None:
        """Carry out a `RUN` in shell form."""
        subprocess.run(self.words(["/bin/sh", "-c", command]), check=True)

    def copy(self, arguments: str, stages: dict[str, "Stage"]) -> None:
        """Carry out a `COPY` of files or folders."""
        words = shlex.split(arguments)
        base = HERE
        if words[0].startswith("--from="):
            base = stages[words.pop(0).removeprefix("--from=")].root
        *sources, target = words
        into = self.root / (Path(self.workdir) / target).relative_to("/")
        for source in sources:
            origin = base / source.lstrip("/")
            if origin.is_dir():
                shutil.copytree(origin, into, symlinks=True, dirs_exist_ok=True)
            else:
                place = into / origin.name if target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(origin, place)


def build(base: Path, scratch: Path) -> Stage:
    """Carry out every instruction and return the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(base)
    for word, rest in instructions((HERE / "Dockerfile").read_text()):
        print(f"== {word} {rest[:100]}", flush=True)
        if word == "FROM":
            name = rest.partition(" AS ")[2] or "final"
            stage = stages[name] = Stage(scratch / name)
            subprocess.run(["cp", "-a", str(base), str(stage.root)], check=True)
            stage.environment |= {k: v for k, v in os.environ.items() if k == "PIP_CERT"}
        elif word == "COPY":
            stage.copy(rest, stages)
        elif word not in {"ARG", "VOLUME", "EXPOSE"}:
            carry_out(stage, word, rest)
    return stage


def carry_out(stage: Stage, word: str, rest: str) -> None:
    """Carry out an instruction that concerns one stage alone."""
    match word:
        case "RUN":
            stage.run(rest)
        case "ENV":
            stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        case "WORKDIR":
            stage.workdir = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "STOPSIGNAL":
            stage.stop_signal = rest
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.command = json.loads(rest)
        case "HEALTHCHECK":
            stage.health = json.loads(rest[rest.index("[") :])
        case _:
            raise ValueError(f"{word} is not known here")


def start(stage: Stage) -> subprocess.Popen[bytes]:
    """Run the image's process as PID 1, with nothing to write to but its volume."""
    root, user = shlex.quote(str(stage.root)), stage.user
    script = f"""
        ip link set lo up
        mount --bind {root} {root} && mount -o remount,bind,ro {root}
        mount -t tmpfs -o mode=0700,uid={user.split(":")[0]} tmpfs {root}/var/lib/offramp
        mount -t proc proc {root}/proc
        exec {shlex.join(stage.words([*stage.entrypoint, *stage.command]))}
    """
    space = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child"]
    return subprocess.Popen([*space, "sh", "-ec", script])


def inner_pid(outer: int) -> int:
    """Return the process that is PID 1 inside."""
    children = Path(f"/proc/{outer}/task/{outer}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.05)
    return int(found[0])


def is_healthy(stage: Stage, pid: int) -> bool:
    """Run the image's health check beside the process."""
    beside = ["nsenter", "--target", str(pid), "--net", "--mount", "--pid"]
    done = subprocess.run([*beside, *stage.words(stage.health)], check=False, capture_output=True)
    return done.returncode == 0


def main(base: Path, scratch: Path) -> int:
    """Build, run, ask, stop; return 0 if all of it went as it should."""
    stage = build(base, scratch)
    found = [
        name for name in ("cc", "gcc", "curl", "wget") if (stage.root / "usr/bin" / name).exists()
    ]
    print(f"== tools that should not be there: {found or 'none'}")
    process = start(stage)
    pid = inner_pid(process.pid)
    for _ in range(60):
        if healthy := is_healthy(stage, pid):
            break
        time.sleep(0.5)
    print(f"== healthy: {healthy}; {stage.stop_signal} to PID 1", flush=True)
    os.kill(pid, signal.Signals[stage.stop_signal])
    code = process.wait(timeout=60)
    print(f"== exit code {code}")
    return 0 if healthy and code == 0 and not found else 1


if __name__ == "__main__":
    sys.exit(main(*(Path(word).resolve() for word in sys.argv[1:])))

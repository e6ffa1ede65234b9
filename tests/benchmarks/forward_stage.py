"""Processes under measurement: started, pinned to a core, and asked for their CPU time."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helpers.certificates import write_certificate
from tests.helpers.ports import free_port

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent

NGINX: Final = """
worker_processes 1; daemon off; master_process off; pid {work}/nginx.pid;
error_log {work}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 2048; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{
    proxy_pass {scheme}://up; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffering off; proxy_ssl_session_reuse on; }} }}
}}
"""

OFFRAMP: Final = """
listen: 127.0.0.1:{port}
admin: {{listen: 127.0.0.1:{admin}}}
store: sqlite:///{work}/offramp.db
upstreams: {{up: {{dialect: openai, base_url: "{url}"}}}}
forwarding: {{client: {client}}}
"""
OURS: Final = ("aiohttp", "lean")
"""The service with each of its clients."""


class MissingToolError(Exception):
    """Something that the benchmark is built with is not installed."""


@dataclass(frozen=True)
class Target:
    """Something that answers calls; `pid` of what is measured, none for the upstream itself."""

    name: str
    port: int
    prefix: str = ""
    pid: int | None = None

    def cpu_s(self) -> float:
        """Return the CPU time of the process and all of its threads."""
        if self.pid is None:
            return 0.0
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in threads) / 1e9

    def pss_mb(self) -> float:
        """Return the memory of the process, what it shares divided by who shares it."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        (pss,) = [line for line in rollup if line.startswith("Pss:")]
        return int(pss.split()[1]) / 1024


@dataclass(frozen=True)
class Seen:
    """What callers saw in one run, and what it cost the proxy."""

    answered: int
    errors: int
    seconds: float
    latency_p50_us: float
    latency_p99_us: float
    chunks: int
    delay_p50_us: float
    delay_p99_us: float
    cpu_s: float


class Stage:
    """Upstreams and proxies on loopback ports; all end with it."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        self._work = work
        self._stack = stack
        self.ready_s: dict[int, float] = {}
        """How long each process took until it took its first connection."""
        self._peer = build_peer(work)
        self._go = build_go(work)
        self._certificate = write_certificate(work / "upstream.pem")
        cores = sorted(os.sched_getaffinity(0))
        self._ends, self._measured = cores[0], cores[-1]
        self.upstream = self._start([str(self._peer), "serve"], self._ends, "direct")
        tls = [sys.executable, "-m", "tests.benchmarks.forward_proxies", "tls"]
        port = free_port()
        arguments = [*tls, str(port), "-", str(self._certificate)]
        self.tls_upstream = self._start(arguments, self._ends, "tls", port=port)

    def proxy(self, kind: str, *, tls: bool = False) -> Target | None:
        """Start a proxy before an upstream; nothing if it is not installed."""
        upstream = (self.tls_upstream if tls else self.upstream).port
        scheme = "https" if tls else "http"
        url = f"{scheme}://127.0.0.1:{upstream}"
        if kind == "nginx":
            return self._nginx(upstream, scheme)
        if kind in OURS:
            return self._offramp(kind, url)
        port = free_port()
        certificate = [str(self._certificate)] if tls else []
        if kind == "go":
            if self._go is None:
                return None
            command = [str(self._go), str(port), url, *certificate]
        else:
            module = [sys.executable, "-m", "tests.benchmarks.forward_proxies", kind]
            command = [*module, str(port), url, *certificate]
        return self._start(command, self._measured, kind, port=port)

    def _offramp(self, client: str, url: str) -> Target:
        """Start the service as it is installed; only what it must be told is."""
        port, admin = free_port(), free_port()
        work = self._work / f"offramp-{port}"
        work.mkdir()
        file = work / "offramp.yaml"
        file.write_text(OFFRAMP.format(work=work, port=port, admin=admin, client=client, url=url))
        command = [sys.executable, "-m", "proxy", "serve", "--config", str(file)]
        environment = {"SSL_CERT_FILE": str(self._certificate)}
        return self._start(
            command, self._measured, client, port=port, prefix="/up", environment=environment
        )

    def run(self, target: Target, query: str, *, seconds: float, callers: int, rate: float) -> Seen:
        """Let callers call a target, and measure once all connections are there."""
        command = [str(self._peer), "load", str(target.port)]
        command += [f"{target.prefix}/v1/chat/completions{query}", str(seconds / 2), str(seconds)]
        command += [str(callers), str(rate), "3000"]
        with (
            pinned(self._ends),
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load,
        ):
            assert load.stdout is not None
            load.stdout.readline()
            before = target.cpu_s()
            told = load.stdout.readline()
            if not told:
                raise RuntimeError(f"the callers of {target.name} ended with {load.wait()}")
            seen = json.loads(told)
            return Seen(**seen, cpu_s=target.cpu_s() - before)

    def _nginx(self, upstream: int, scheme: str) -> Target | None:
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        if nginx is None:
            return None
        port = free_port()
        work = self._work / f"nginx-{port}"
        work.mkdir()
        file = work / "nginx.conf"
        file.write_text(NGINX.format(work=work, port=port, upstream=upstream, scheme=scheme))
        command = [nginx, "-p", str(work), "-e", f"{work}/nginx.log", "-c", str(file)]
        return self._start(command, self._measured, "nginx", port=port)

    def _start(
        self,
        command: list[str],
        core: int,
        name: str,
        *,
        port: int | None = None,
        prefix: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Target:
        if port is None:
            port = free_port()
            command = [*command, str(port)]
        # Callers who leave at the end of a run make the naive one complain.
        with pinned(core), (self._work / f"{name}-{port}.log").open("wb") as log:
            began = time.monotonic()
            process = subprocess.Popen(
                command, cwd=ROOT, stderr=log, env=os.environ | dict(environment or {})
            )
        self._stack.callback(_end, process)
        _await_port(process, port)
        self.ready_s[process.pid] = time.monotonic() - began
        return Target(name, port, prefix, None if name in {"direct", "tls"} else process.pid)


def build_peer(work: Path) -> Path:
    """Compile the callers and the upstream.

    Raises:
        MissingToolError: without a C compiler.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise MissingToolError("the benchmark needs a C compiler (gcc)")
    built = work / "peer"
    source = HERE / "forward_peer.c"
    subprocess.run([compiler, "-O2", "-o", str(built), str(source)], check=True)
    return built


def build_go(work: Path) -> Path | None:
    """Compile Go's own reverse proxy; nothing without its compiler."""
    compiler = shutil.which("go")
    if compiler is None:
        return None
    built = work / "go-proxy"
    source = HERE / "forward_go.go"
    command = [compiler, "build", "-o", str(built), str(source)]
    done = subprocess.run(command, check=False, capture_output=True)
    return built if done.returncode == 0 else None


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Let what is started meanwhile run on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _await_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not come up")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()

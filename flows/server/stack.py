"""The local stack of one workspace, started and stopped as one: Prefect server, runner of deployments, endpoint."""

import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from regraft.serving.files.durable import write_json
from regraft.serving.process.leash import end_tree, leash_command
from regraft.serving.process.process import start_service, stop_service, wait_ready
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

TELL_S = 15.0
"""Seconds of waiting after which it is said what is waited for."""
EXTRA_LOGGERS = "regraft"
"""Floors whose log records Prefect shows beside its own."""


class StackError(RuntimeError):
    """A part of the stack did not come up or died; the message names its log."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Server:
    """A running Prefect server."""

    process: subprocess.Popen[bytes]
    api: str
    log: Path

    @property
    def ui(self) -> str:
        return self.api.removesuffix("/api")


def free_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int, host: str = "127.0.0.1") -> None:
    """Raise StackError if something listens on ``port``: its answers would be taken for ours."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(f"port {port} of {host} cannot be used ({error.strerror}); choose another one") from error


def read_stack(home: Workspace) -> dict[str, Any] | None:
    """Return the addresses that ``regraft up`` wrote, or None."""
    path = home.state / "stack.json"
    return json.loads(path.read_text()) if path.exists() else None


def child_environment(home: Workspace, api: str | None = None) -> dict[str, str]:
    """Return the environment of every child: the workspace's Prefect home, and ours before others' programs."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["PREFECT_HOME"] = str(home.state / "prefect")
    environment["PREFECT_LOGGING_EXTRA_LOGGERS"] = EXTRA_LOGGERS
    environment["PREFECT_API_REQUEST_TIMEOUT"] = "120"
    environment.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "2")
    if api:
        environment["PREFECT_API_URL"] = api
    return environment


def launch(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start ``command``, made by ``leash_command``, in a process group of its own, its output going to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file: IO[bytes]
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], patience_s: float = 10.0) -> None:
    """End a process and all it started: politely, then by force, because a group may outlive its leader."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience_s)
    end_tree(process)


def start_server(home: Workspace, port: int | None = None) -> Server:
    """Start a Prefect server with its database inside the workspace; it answers once ``wait_server`` returns."""
    port = port or free_port()
    require_free(port)
    log = home.logs / "prefect-server.log"
    command = leash_command("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    environment = child_environment(home) | {"PREFECT_UI_API_URL": f"http://127.0.0.1:{port}/api"}
    environment.pop("PREFECT_API_URL", None)
    return Server(launch(command, log, environment), f"http://127.0.0.1:{port}/api", log)


def wait_server(server: Server) -> None:
    """Wait until the server answers, for as long as it lives; a fresh database is migrated first, which takes a while.

    Raises:
        StackError: If it died.
    """
    import httpx

    spoken = time.monotonic()
    while server.process.poll() is None:
        try:
            # Nothing stands between us and a server on this machine, whatever the environment says of proxies.
            if httpx.get(f"{server.api}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() - spoken > TELL_S:
            spoken = time.monotonic()
            logger.info("waiting for the Prefect server; its log: %s", server.log)
        time.sleep(0.3)
    raise StackError(f"the Prefect server ended with code {server.process.returncode}; its log: {server.log}")


def start_runner(home: Workspace, api: str) -> subprocess.Popen[bytes]:
    """Start ``regraft deploy``, which registers the deployments and runs what is due."""
    command = leash_command("regraft.flows.cli", "deploy", "--workspace", str(home.root))
    return launch(command, home.logs / "runner.log", child_environment(home, api))


def endpoint_settings(home: Workspace) -> dict[str, str]:
    """Return what ``params.yaml`` says of the endpoint, as its environment."""
    from regraft.data.dataset.ingest import IngestConfig
    from regraft.serving.endpoint.settings import PREFIX, ServeConfig

    limit = read_section(home.params, "ingest", IngestConfig).max_pixels
    serve = read_section(home.params, "serve", ServeConfig)
    return serve.to_environment() | {f"{PREFIX}MAX_PIXELS": str(limit)}


@contextmanager
def running_server(home: Workspace, port: int | None = None) -> Iterator[Server]:
    """A Prefect server for the length of a ``with`` block."""
    server = start_server(home, port)
    try:
        wait_server(server)
        yield server
    finally:
        stop(server.process)


@dataclass(frozen=True, slots=True)
class Stack:
    """What ``regraft up`` runs: addresses (api, ui, endpoint) and processes by name."""

    addresses: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]]


@contextmanager
def running_stack(home: Workspace, endpoint_port: int | None = None, server_port: int | None = None) -> Iterator[Stack]:
    """Server, runner and endpoint for the length of a ``with`` block."""
    with ExitStack() as parts:
        port = endpoint_port or free_port()
        require_free(port)
        server = parts.enter_context(running_server(home, server_port))
        runner = start_runner(home, server.api)
        parts.callback(stop, runner)
        log = home.logs / "endpoint.log"
        service = start_service(home.root, port, log=log, settings=endpoint_settings(home))
        parts.callback(stop_service, service)
        addresses = {"api": server.api, "ui": server.ui, "endpoint": f"http://127.0.0.1:{port}"}
        wait_ready(addresses["endpoint"], math.inf, process=service, log=log, path="/livez")
        write_json(home.state / "stack.json", addresses)
        parts.callback((home.state / "stack.json").unlink, missing_ok=True)
        yield Stack(addresses, {"Prefect server": server.process, "runner": runner, "endpoint": service})

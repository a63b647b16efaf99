"""Starts and stops the service as a real process, for the flows, the command line and the tests."""

import contextlib
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from regraft.serving.files.scratch import claim_scratch
from regraft.serving.process.leash import end_tree, leash_command
from regraft.serving.silence import SILENT

TARGET = "regraft.serving.endpoint.service:Regraft"
STOP_TIMEOUT_S = 20.0
GRACE_S = 10
"""Requests under way are given so many whole seconds to end; then they are cut."""
ASK_AGAIN_S = 1.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy between us and loopback


class ServiceStartError(RuntimeError):
    """The service did not come up; the message ends with the last lines of its log."""

    exit_code = 1


def start_service(
    workspace: Path, port: int, *, host: str = "127.0.0.1", log: Path, settings: dict[str, str] | None = None
) -> subprocess.Popen:
    """Start the service of ``workspace`` in its own process group and return at once; it ends when this process does.

    Args:
        workspace: Its registry is followed; state goes below its ``.regraft``.
        port: The port to listen on.
        host: The address to listen on.
        log: Gets what the process writes, appended.
        settings: More ``REGRAFT_*`` variables, by their whole name; see ``regraft.serving.endpoint.settings``.
    """
    workspace = Path(workspace).resolve()
    state = workspace / ".regraft" / "bentoml"
    scratch, claim = claim_scratch(state / "tmp")
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    options = ["--host", host, "--port", str(port), "--timeout-graceful-shutdown", str(GRACE_S)]
    try:
        with Path(log).open("ab") as output:
            return subprocess.Popen(
                leash_command("bentoml", "serve", TARGET, *options),
                cwd=state,
                env=_make_environment(workspace, state, scratch) | (settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(claim,),
            )
    finally:
        os.close(claim)


def wait_ready(
    url: str,
    timeout_s: float,
    *,
    process: subprocess.Popen | None = None,
    log: Path | None = None,
    path: str = "/readyz",
) -> None:
    """Return once ``url`` answers 200 at ``path``; ask for ``/livez`` to wait for a service without a champion.

    Raises:
        ServiceStartError: If it does not in ``timeout_s`` seconds, or ``process`` ends before.
    """
    deadline, last = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise ServiceStartError(f"the service ended with code {process.returncode} before it was ready{_tail(log)}")
        last = _ask(url.rstrip("/") + path)
        if last == "200":
            return
        time.sleep(0.1)
    raise ServiceStartError(f"{url}{path} was not ready after {timeout_s:g} s (last: {last}){_tail(log)}")


def stop_service(process: subprocess.Popen, timeout_s: float = STOP_TIMEOUT_S) -> int:
    """Ask the service to finish, wait, kill what is left of it, and return the exit code; safe to call twice.

    Only the supervisor is asked: were its worker to end by itself, it would start another. It is asked again and again:
    while it looks after its workers it drops the request (circus: ``ConflictError``, unlogged).
    """
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ASK_AGAIN_S)
    return end_tree(process)


def _make_environment(workspace: Path, state: Path, scratch: Path) -> dict[str, str]:
    return (
        SILENT
        | os.environ
        | {
            "REGRAFT_WORKSPACE": str(workspace),
            "BENTOML_HOME": str(state),  # nothing is written below the user's home
            "TMPDIR": str(scratch),
            "PYTHONUNBUFFERED": "1",
        }
    )


def _ask(url: str) -> str:
    try:
        with _DIRECT.open(url, timeout=2) as response:
            return str(response.status)
    except urllib.error.HTTPError as exc:
        return f"{exc.code} {exc.read(500).decode('utf-8', 'replace')}"
    except OSError as exc:
        return str(exc)


def _tail(log: Path | None, lines: int = 20) -> str:
    if log is None or not Path(log).exists():
        return ""
    return ". Its log ends:\n" + "\n".join(Path(log).read_text(errors="replace").splitlines()[-lines:])

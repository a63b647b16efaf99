"""No command connects beyond this machine: seen by strace, because a spy in Python misses native code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from regraft.flows.server.stack import free_port

STRACE = shutil.which("strace")
BIN = Path(sys.executable).parent
INET = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?.*")
LOOPBACK = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"|"::ffff:127\.')

pytestmark = pytest.mark.skipif(STRACE is None, reason="needs strace to see what native code connects to")


def trace(log: Path, command: list[str]) -> list[str]:
    return [str(STRACE), "-f", "--seccomp-bpf", "-e", "trace=connect", "-o", str(log), *command]


def list_foreign(log: str) -> list[str]:
    return [line for line in INET.findall(log) if not LOOPBACK.search(line)]


def test_the_check_sees_a_connect_beyond_this_machine(tmp_path: Path) -> None:
    # 192.0.2.0/24 is reserved for documentation: nothing answers there, and the socket does not wait for an answer.
    code = "import socket; s = socket.socket(); s.setblocking(False); s.connect_ex(('192.0.2.1', 9))"
    subprocess.run(trace(tmp_path / "log", [sys.executable, "-c", code]), check=True)
    assert len(list_foreign((tmp_path / "log").read_text())) == 1


@pytest.mark.slow
def test_training_and_export_stay_on_this_machine(trained) -> None:
    assert trained.connects
    assert list_foreign(trained.connects) == []


def test_serving_and_asking_stay_on_this_machine(copied, tmp_path: Path) -> None:
    port = free_port()
    image = next(path for path in sorted(copied.images.rglob("*")) if path.is_file())
    command = [str(BIN / "regraft"), "serve", "--workspace", str(copied.home.root), "--port", str(port)]
    log = (tmp_path / "out").open("w")
    service = subprocess.Popen(trace(tmp_path / "log", command), stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/readyz")
        command = [str(BIN / "regraft"), "predict", str(image), "--url", f"http://127.0.0.1:{port}", "--json"]
        asked = subprocess.run(trace(tmp_path / "asked", command), capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)[0]["version"] == copied.answer["version"]
    finally:
        os.killpg(service.pid, signal.SIGTERM)
        service.wait(30)
        log.close()
    assert list_foreign((tmp_path / "log").read_text()) == []
    assert list_foreign((tmp_path / "asked").read_text()) == []


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + 900
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{url} did not answer")

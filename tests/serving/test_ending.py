"""Whatever ends the service, nothing of it runs afterwards, and the next start clears what it left."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from regraft.serving.files.scratch import claim_scratch, clear_scratch
from regraft.serving.process.leash import end_tree, leash_command
from regraft.serving.process.process import (
    GRACE_S,
    STOP_TIMEOUT_S,
    ServiceStartError,
    start_service,
    stop_service,
    wait_ready,
)
from regraft.serving.registry.registry import Registry

ROOT = Path(__file__).parents[2]
STARTER = """
import os, pathlib, sys
from regraft.serving.process.process import start_service, wait_ready
workspace, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
process = start_service(workspace, port, log=workspace / "log", settings={"PYTHONPATH": os.environ["PYTHONPATH"]})
wait_ready(f"http://127.0.0.1:{port}", 90, process=process, log=workspace / "log")
print(process.pid, flush=True)
sys.stdin.read()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(claim: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # its parent may not ask for it
    except psutil.NoSuchProcess:
        return True


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, make_bundle) -> Path:
    folder = tmp_path_factory.mktemp("ending")
    registry = Registry(folder / "workspace" / "models" / "store")
    registry.promote(registry.register(make_bundle(folder / "bundle")), "test", "first")
    return folder / "workspace"


@pytest.fixture(scope="module")
def unbounded(tmp_path_factory) -> str:
    """Return a PYTHONPATH with which a service decodes files that it should have refused."""
    folder = tmp_path_factory.mktemp("unbounded")
    code = "from regraft.serving.decoding import effort\neffort.JPEG_PASSES = effort.JPEG_SEGMENTS = 10**9\n"
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join((str(folder), str(ROOT)))


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> bytes:
    """Return an image file that takes minutes to decode."""
    path = tmp_path_factory.mktemp("endless") / "a.jpg"
    Image.fromarray(np.full((4800, 4800), 90, np.uint8)).save(path, progressive=True)
    data = path.read_bytes()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 20_000 + b"\xff\xd9"


@pytest.fixture
def running(workspace, unbounded):
    """Start a service from a process of its own; yield (starter, supervisor, worker, port)."""
    port = free_port()
    command = [sys.executable, "-c", STARTER, str(workspace), str(port)]
    starter = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": unbounded}
    )
    family: list[psutil.Process] = []
    try:
        supervisor = psutil.Process(int(starter.stdout.readline()))
        family = [supervisor, *supervisor.children(recursive=True)]
        [worker] = [child for child in family[1:] if "_bentoml_impl.worker.service" in child.cmdline()]
        yield starter, supervisor, worker, port
    finally:
        starter.kill()
        starter.communicate()
        for process in family:
            if process.is_running():
                process.kill()


def keep_busy(port: int, data: bytes, worker: psutil.Process) -> threading.Thread:
    """Send ``data`` to be decoded and return once it is being decoded."""

    def post() -> None:
        try:
            httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": ("a.jpg", data)}, timeout=60)
        except httpx.HTTPError:
            return

    before = sum(worker.cpu_times()[:2])
    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    wait_until(lambda: sum(worker.cpu_times()[:2]) > before + 1)
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["starter", "supervisor"])
def test_a_kill_leaves_nothing_running_and_the_next_start_clears_what_was_left(
    running, workspace, unbounded, endless, victim
):
    starter, supervisor, worker, port = running
    keep_busy(port, endless, worker)
    [scratch] = (workspace / ".regraft" / "bentoml" / "tmp").iterdir()
    (scratch / "upload").write_bytes(b"what a kill leaves")
    os.kill(starter.pid if victim == "starter" else supervisor.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(supervisor) and has_ended(worker))
    wait_until(lambda: is_free(port))
    again = start_service(workspace, port, log=workspace / "log", settings={"PYTHONPATH": unbounded})
    try:
        assert not scratch.exists()
        wait_ready(f"http://127.0.0.1:{port}", 90, process=again, log=workspace / "log")
    finally:
        stop_service(again)


@pytest.mark.slow
def test_a_stop_while_an_image_is_decoded_ends_in_time_and_leaves_nothing(workspace, unbounded, endless):
    port = free_port()
    process = start_service(workspace, port, log=workspace / "log", settings={"PYTHONPATH": unbounded})
    try:
        wait_ready(f"http://127.0.0.1:{port}", 90, process=process, log=workspace / "log")
        family = psutil.Process(process.pid).children(recursive=True)
        [worker] = [child for child in family if "_bentoml_impl.worker.service" in child.cmdline()]
        keep_busy(port, endless, worker)
        started = time.monotonic()
        assert stop_service(process) == 0
        assert time.monotonic() - started < GRACE_S + STOP_TIMEOUT_S / 2
        assert psutil.wait_procs(family, timeout=0)[1] == []
        assert is_free(port)
    finally:
        stop_service(process)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="the system does not tell the time of a thread")
def test_a_worker_whose_decoder_never_comes_back_is_replaced(workspace, tmp_path, unbounded, endless, colour_image):
    (tmp_path / "sitecustomize.py").write_text(
        "from regraft.serving.decoding import effort\nfrom regraft.serving.endpoint import decoders\n"
        "decoders.Decoders.__init__.__kwdefaults__['stuck_s'] = 2.0\n"
        "effort.JPEG_PASSES = effort.JPEG_SEGMENTS = 10**9\n"
    )
    port, path = free_port(), os.pathsep.join((str(tmp_path), str(ROOT)))
    process = start_service(workspace, port, log=workspace / "log", settings={"PYTHONPATH": path})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_ready(url, 90, process=process, log=workspace / "log")
        family = psutil.Process(process.pid).children(recursive=True)
        [worker] = [child for child in family if "_bentoml_impl.worker.service" in child.cmdline()]
        keep_busy(port, endless, worker)
        wait_until(lambda: has_ended(worker))
        try:
            wait_ready(url, 90, process=process, log=workspace / "log")
        except ServiceStartError:  # in a container BentoML's supervisor leaves the restart to who runs it
            assert process.poll() is not None
            return
        answer = httpx.post(f"{url}/predict", files={"image": ("a.jpg", colour_image("green"))}, timeout=60)
        assert answer.json()["label"] == "green"
    finally:
        stop_service(process)


NEST = "import os, subprocess, sys; subprocess.Popen(['sleep', '600'], start_new_session=True); print(1, flush=True)"


def test_all_that_a_leashed_process_started_ends_with_its_starter(tmp_path):
    (tmp_path / "nest.py").write_text(f"{NEST}; sys.stdin.read()\n")
    code = "import subprocess, sys; from regraft.serving.process.leash import leash_command\n"
    code += "p = subprocess.Popen(leash_command('nest'), stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
    code += "p.stdout.readline(); print(p.pid, flush=True); sys.stdin.read()"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as starter:
        leashed = psutil.Process(int(starter.stdout.readline()))
        family = [leashed, *leashed.children(recursive=True)]
        assert len(family) == 2
        starter.kill()
        assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_tree_ends_with_its_leader_and_members_of_other_groups(tmp_path):
    with subprocess.Popen([sys.executable, "-c", f"{NEST}; sys.stdin.read()"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, start_new_session=True) as leader:  # fmt: skip
        leader.stdout.readline()
        family = psutil.Process(leader.pid).children()
        assert end_tree(leader) == -signal.SIGKILL
        assert end_tree(leader) == -signal.SIGKILL
        assert psutil.wait_procs(family, timeout=0)[1] == []


def test_a_leashed_module_gets_its_arguments_and_gives_its_exit_code(tmp_path):
    (tmp_path / "told.py").write_text("import sys; print(sys.argv[1:]); sys.exit(3)\n")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(leash_command("told", "-a", "b c"), env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "['-a', 'b c']\n")


def test_scratch_that_is_claimed_stays_and_the_rest_is_cleared(tmp_path):
    first, claim = claim_scratch(tmp_path)
    (first / "a").write_text("a")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "upload").write_text("left")
    (tmp_path / "file").write_text("left")
    second, other = claim_scratch(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted((first, second)) and (first / "a").exists()
    os.close(claim)
    clear_scratch(tmp_path)
    assert list(tmp_path.iterdir()) == [second]
    os.close(other)

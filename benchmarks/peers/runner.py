"""Run one peer on one problem, in its own process under the peers' interpreter."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import ROOT, prepare_environment

PEERS = {"fastai": "benchmarks.peers.fastai_run", "plain": "benchmarks.peers.plain_run"}


class PeerError(RuntimeError):
    """A peer's process failed."""


def run_peer(name: str, problem_json: Path, cache: Path) -> dict[str, Any]:
    """Return the answer of the peer called ``name``.

    Args:
        name: A key of ``PEERS``.
        problem_json: File that ``Problem.write`` wrote.
        cache: Folder for the peers' environment; making that is not part of any time in the answer.

    Returns:
        What the peer printed, and of its whole process, the test included: ``process_s``, wall seconds, and
        ``process_cpu_s``, processor seconds with those of its loading workers, which a busy machine stretches less.

    Raises:
        KeyError: If there is no such peer.
        PeerError: If its process fails; the last lines of its error output are in the message.
    """
    module = PEERS[name]
    python = prepare_environment(cache)
    started, cpu = time.perf_counter(), measure_children()
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [str(python), "-m", module, str(problem_json.absolute())],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,  # fastai leaves files in its working folder
            env=build_environment(Path(folder)),
        )
    process_s = time.perf_counter() - started
    if result.returncode:
        raise PeerError(
            f"peer {name} ended with {result.returncode} on {problem_json}: {result.stderr.strip()[-2000:]}"
        )
    answer = json.loads(result.stdout.splitlines()[-1])
    return {**answer, "process_s": process_s, "process_cpu_s": measure_children() - cpu}


def measure_children() -> float:
    """Return the processor seconds of all ended child processes so far."""
    times = os.times()
    return times.children_user + times.children_system


def build_environment(folder: Path) -> dict[str, str]:
    """Return the environment variables of a peer: this checkout importable, no GPU, no network, no home folder."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return inherited | {
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "FASTAI_HOME": str(folder),
        "MPLBACKEND": "Agg",
    }

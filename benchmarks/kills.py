"""Kill -9 at ten moments of a training run: what is made in the end is what an undisturbed run makes, byte for byte."""

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe_machine
from regraft.data.synthetic.steel import SteelLine, render_folder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "kills.md"
BIN = Path(sys.executable).parent
KILLS = 10
PER_CLASS = 16
SETTINGS = ("finetune.image_s=0.2", "certify.trial_s=0.5")
"""Shorter than the default: the run is made many times."""
COMPARED = ("models/store/checkpoint/model.safetensors", "models/store/bundle/model.onnx", "data/store/split.parquet")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: how long it was let run, and the last stage that it had begun."""

    seconds: float
    stage: str


def prepare(folder: Path) -> Path:
    """Return a new workspace in ``folder``."""
    subprocess.run([BIN / "regraft", "init", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def start(root: Path, images: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a training run in a process group of its own."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [BIN / "regraft", "train", "--workspace", root, "--data", images, *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.open("wb"), start_new_session=True)


def kill_after(root: Path, images: Path, seconds: float, log: Path) -> Attempt:
    """Let a run go on for so long and kill all of its processes."""
    process = start(root, images, log)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    begun = [line.split()[1] for line in log.read_text().splitlines() if line.endswith(" started")]
    return Attempt(round(seconds, 1), begun[-1] if begun else "before the first stage")


def hash_results(root: Path) -> dict[str, str]:
    """Return the hash of each file that is compared."""
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in COMPARED}


def measure_kills(arguments: list[str]) -> int:
    """Write the page; exit code 1 if one file differs."""
    kills = int(arguments[0]) if arguments else KILLS
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        images = place / "images"
        render_folder(images, SteelLine.default(), PER_CLASS, seed=0)
        calm = prepare(place / "calm")
        began = time.perf_counter()
        assert start(calm, images, place / "calm.log").wait() in (0, 3)
        whole = time.perf_counter() - began
        rough = prepare(place / "rough")
        # What is done stays done, so that an attempt gets further than the one before it in the same time.
        moments = [whole * (0.08 + 0.5 * number / kills) for number in range(kills)]
        attempts = [kill_after(rough, images, moment, place / "rough.log") for moment in moments]
        code = start(rough, images, place / "rough.log").wait()
        wanted, got = hash_results(calm), hash_results(rough)
    equal = wanted == got and code in (0, 3)
    rows = [f"| {number} | {each.seconds} | {each.stage} |" for number, each in enumerate(attempts, 1)]
    files = [f"| `{name}` | {wanted[name][:16]} | {got[name][:16]} |" for name in COMPARED]
    lines = [
        "# Kill -9 in the middle of a run",
        "",
        f"`python -m benchmarks kills`: {PER_CLASS} images of each of six classes of the rendered line are trained on "
        f"undisturbed ({whole:.0f} s), and in another workspace with `kill -9` of the whole process group at {kills} "
        f"moments, then once to the end. Settings: {', '.join(SETTINGS)}.",
        "",
        *describe_machine(),
        "",
        f"**{'Equal' if equal else 'DIFFERENT'}** to the byte.",
        "",
        "| file | undisturbed | killed |",
        "| --- | --- | --- |",
        *files,
        "",
        "| kill | after s | in stage |",
        "| --- | --- | --- |",
        *rows,
        "",
    ]
    PAGE.write_text("\n".join(lines))
    sys.stdout.write(PAGE.read_text())
    return 0 if equal else 1

"""A run that is killed with SIGKILL, again and again, ends with the bytes of an undisturbed one."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from regraft.models.compute.snapshots import COMMIT_FILE, ResumeFolder, Snapshot

# Imports once, then forks a life per line it reads: python and torch take seconds to start.
NURSERY = """
import os
import sys
from pathlib import Path

import numpy as np

import regraft.models.training.loop
from regraft.models.backbones.hub import Backbone
from regraft.models.training.config import FinetuneConfig
from regraft.models.heads.data import LabelledImages
from regraft.models.training.finetune import FinetunePaths, finetune
from regraft.models.heads.head_views import HeadConfig
from regraft.serving.decoding.preprocess import PreprocessSpec

root, sha256 = Path(sys.argv[1]), sys.argv[2]
regraft.models.training.loop.SAVE_EVERY_S = 0.05


def live(name):
    data = np.load(root / "images.npz", allow_pickle=False)
    head = HeadConfig(views=0)  # a head so simple that fine-tuning is kept
    config = FinetuneConfig(max_epochs=12, batch_size=32, device="cpu", threads=1, head=head)
    config = config.model_copy(update={"loop": config.loop.model_copy(update={"backbone_lr": 1e-2})})
    finetune(
        Backbone("test_resnet.tiny", root / "test_resnet.tiny", sha256, "Apache-2.0", "embedded", 1),
        LabelledImages(data["pixels"], data["labels"], data["parts"], ["a", "b", "c"]),
        PreprocessSpec(size_px=32, fit="squash", interpolation="bilinear"),
        config,
        FinetunePaths(into=root / name, state=root / f"{name}-state"),
        progress=lambda done, total: print("step", done, flush=True),
    )


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print("pid", os.getpid(), flush=True)
        live(line.strip())
        os._exit(0)
    print("end", os.waitpid(child, 0)[1], flush=True)
"""


class Nursery:
    """Runs fine-tuning in processes that can be killed."""

    def __init__(self, root: Path, sha256: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(root), sha256], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def live(self, name: str, kill_after: int | None = None, delay_s: float = 0.0) -> tuple[int, list[int]]:
        """Run once; kill after some steps of this life and a moment more. Return exit status and steps seen."""
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        pid, steps = 0, []
        for line in self.process.stdout:
            word, number = line.split()
            if word == "end":
                return int(number), steps
            if word == "pid":
                pid = int(number)
            else:
                steps.append(int(number))
            if kill_after is not None and len(steps) == kill_after:
                time.sleep(delay_s)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                kill_after = None
        raise AssertionError("the nursery died")


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(make_backbone, stripes, tmp_path):
    pixels, labels = stripes(72, noise=110)
    parts = np.array(["train"] * 160 + ["validation"] * 56)
    np.savez(tmp_path / "images.npz", pixels=pixels, labels=labels, parts=parts)
    nursery = Nursery(tmp_path, make_backbone(tmp_path).sha256)
    try:
        assert nursery.live("whole") == (0, list(range(1, 61)))
        draw = random.Random(0)
        # After no step: while it adapts, fits the probe or has just begun.
        deaths = [nursery.live("killed", steps, draw.uniform(0, 0.1))[0] for steps in (0, 2, 0, 7, 5, 9)]
        assert deaths.count(signal.SIGKILL) >= 5
        status, steps = nursery.live("killed")
    finally:
        nursery.process.stdin.close()
        nursery.process.wait()
        nursery.process.stdout.close()
    assert status == 0
    assert 0 < len(steps) < 60  # it went on and did not start anew
    assert json.loads((tmp_path / "whole" / "checkpoint.json").read_text())["kept"] == "finetuned"
    for file in ("model.safetensors", "checkpoint.json", "history.csv"):
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def snapshot(value: float) -> Snapshot:
    return Snapshot({"weights": {"w": torch.full((3,), value)}}, {"step": 1, "loss": value})


def test_floats_and_tensors_come_back_bit_for_bit(tmp_path):
    folder = ResumeFolder(tmp_path / "s", "k")
    folder.save_step(1, snapshot(0.1 + 0.2))
    loaded = folder.load_latest_step()
    assert loaded.info["loss"] == 0.1 + 0.2
    assert torch.equal(loaded.tensors["weights"]["w"], torch.full((3,), 0.1 + 0.2))


def test_a_damaged_snapshot_falls_back_to_the_one_before(tmp_path):
    folder = ResumeFolder(tmp_path / "s", "k")
    for step in (1, 2, 3):
        folder.save_step(step, snapshot(step))
    assert [path.name for path in folder.list_steps()] == ["step-00000003", "step-00000002"]
    newest = tmp_path / "s" / "step-00000003"
    data = bytearray((newest / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "weights.safetensors").write_bytes(data)
    assert folder.load_latest_step().info["loss"] == 2
    (tmp_path / "s" / "step-00000002" / COMMIT_FILE).unlink()
    assert folder.load_latest_step() is None


def test_snapshots_of_another_key_are_not_loaded(tmp_path):
    ResumeFolder(tmp_path / "s", "one").save("start", snapshot(1))
    assert ResumeFolder(tmp_path / "s", "two").load("start") is None
    assert ResumeFolder(tmp_path / "s", "one").load("start") is not None


@pytest.mark.parametrize("text", ["", "[]", "null", json.dumps({"key": "k"})])
def test_a_broken_commit_marker_counts_as_no_snapshot(text, tmp_path):
    folder = ResumeFolder(tmp_path / "s", "k")
    folder.save("start", snapshot(1))
    (tmp_path / "s" / "start" / COMMIT_FILE).write_text(text)
    assert folder.load("start") is None

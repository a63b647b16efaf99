"""A real photo set whose camera is changed after the training: is the loop's verdict the right one?

Half of the pictures are the folder that is trained on, the others are production. What is right is known from the
production pictures that nobody labelled: champion and challenger answer all of them.
"""

import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.machine import describe_machine
from regraft.flows.demo.closing import LoopStuck, close_loop
from regraft.flows.demo.plant import Plant
from regraft.flows.driver import run_flow
from regraft.flows.server.stack import endpoint_settings, free_port
from regraft.serving.bundle.runtime import ModelHandle
from regraft.serving.decoding.preprocess import load_input
from regraft.serving.process.process import start_service, stop_service
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.params import set_params
from regraft.tasks.workspace.workspace import Workspace, init_workspace

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "camera-change.md"
SETTINGS = {"finetune.budget_s": 25, "certify.trial_s": 0.5, "certify.max_images": 100, "certify.sizes": [0.5, 1.0]}
SETTINGS |= {"watch.window": 150, "retrain.min_labels": 100}
Change = Callable[[Image.Image], Image.Image]


def change_camera(picture: Image.Image) -> Image.Image:
    """Return the picture as a dim, warm, soft camera would have taken it."""
    soft = picture.filter(ImageFilter.GaussianBlur(max(picture.size) / 120))
    dim = np.asarray(ImageEnhance.Brightness(soft).enhance(0.45), dtype=np.float64) * (1.25, 0.95, 0.6)
    grain = np.random.default_rng(picture.size[0]).normal(0, 6, dim.shape)
    return Image.fromarray(np.clip(dim + grain, 0, 255).astype(np.uint8))


def change_little(picture: Image.Image) -> Image.Image:
    """Return the picture a tenth darker: seen by a test, harmless to a model."""
    return ImageEnhance.Brightness(picture).enhance(0.9)


@dataclass
class PhotoPlant(Plant):
    """Production that sends real pictures, each once, through a changed camera."""

    pool: list[tuple[str, bytes]] = field(default_factory=list)
    sent: int = 0

    def send(self, per_class: int) -> float:
        """Send the next ``per_class`` pictures for each of two classes; return the share that was named rightly."""
        batch = self.pool[self.sent : self.sent + 2 * per_class]
        if not batch:
            raise LoopStuck(f"all {len(self.pool)} production pictures were sent")
        self.sent += len(batch)
        right = 0
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            for label, data in batch:
                reply = client.post("/predict", files={"image": ("p.jpg", data)}).raise_for_status().json()
                self.truth[reply["id"]] = label
                right += reply["label"] == label
        return right / len(batch)


def measure_camera_change(arguments: list[str], shared: Path = ROOT.parent / "shared") -> int:
    """Change the camera strongly and a little, write the page, return the exit code."""
    folder = shared / "datasets" / "hymenoptera"
    if not folder.is_dir():
        sys.stderr.write(f"{folder} is not there: nothing was measured\n")
        return 2
    rows = [play(folder, "dim, warm, soft, grainy", change_camera), play(folder, "a tenth darker", change_little)]
    write_page(rows)
    return int(any(row["wrong"] for row in rows))


def play(folder: Path, name: str, change: Change) -> dict[str, Any]:
    """Train on half, let the other half come through the changed camera, close the loop; return one row."""
    with tempfile.TemporaryDirectory() as temporary:
        pool = divide(folder, Path(temporary) / "photos", change)
        home = init_workspace(Path(temporary) / "w")
        set_params(home.params, SETTINGS)
        made = run_flow(home, "train", data=Path(temporary) / "photos")
        row: dict[str, Any] = {"change": name, "champion before": made.metrics["test"]["balanced_accuracy"]}
        port = free_port()
        service = start_service(home.root, port, log=home.logs / "endpoint.log", settings=endpoint_settings(home))
        plant = PhotoPlant(f"http://127.0.0.1:{port}", is_running=lambda: service.poll() is None, pool=pool)
        try:
            plant.await_version(made.version)
            row["named rightly in production"] = plant.send(75)
            closed = close_loop(home, plant, lambda since: run_flow(home, "retrain"), sys.stderr.write)
            row |= {"decision": closed.judgement.decision, "labels": closed.labels, "looks": closed.judgement.look}
            row["reason"] = closed.judgement.reason
            compare_truly(home, made.version, closed.judgement.version, plant, row)
        except LoopStuck as error:
            row |= {"decision": "open", "reason": f"undecided so far; {error}", "wrong": False}
        finally:
            stop_service(service)
        sys.stderr.write(json.dumps(row) + "\n")
        return row


def divide(folder: Path, into: Path, change: Change) -> list[tuple[str, bytes]]:
    """Copy half of the pictures of each class to ``into/<class>``; return the others as (label, changed JPEG)."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.*")):
        files.setdefault(path.parent.name, []).append(path)
    pool = []
    for label, paths in files.items():
        random.Random(0).shuffle(paths)
        for number, path in enumerate(paths):
            if number % 2:
                (into / label).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, into / label / f"{number:04}{path.suffix}")
                continue
            buffer = io.BytesIO()
            with Image.open(path) as picture:
                change(picture.convert("RGB")).save(buffer, "JPEG", quality=90)
            pool.append((label, buffer.getvalue()))
    random.Random(1).shuffle(pool)
    return pool


def compare_truly(home: Workspace, champion: str, challenger: str, plant: PhotoPlant, row: dict[str, Any]) -> None:
    """Let both versions answer every production picture that the challenger has not learned from."""
    from regraft.data.dataset.manifest import read_manifest
    from regraft.serving.log.image_store import ImageStore

    learned = set(read_manifest(home.dataset, ["sha256"])["sha256"])
    rest = [(label, data) for label, data in plant.pool if ImageStore.name(data) not in learned]
    scores = {}
    for version in (champion, challenger):
        handle = ModelHandle.open(Registry(home.models_store).path(version))
        pixels = np.stack([load_input(data, handle.info.preprocess) for _, data in rest])
        answers = np.concatenate([handle.predict(pixels[i : i + 16]).probabilities for i in range(0, len(pixels), 16)])
        named = [handle.info.labels[index] for index in answers.argmax(axis=1)]
        scores[version] = float(np.mean([name == label for name, (label, _) in zip(named, rest, strict=True)]))
    row |= {"unlabelled": len(rest), "champion": scores[champion], "challenger": scores[challenger]}
    gain = scores[challenger] - scores[champion]
    row["wrong"] = (row["decision"] == "promote" and gain < 0) or (row["decision"] == "keep" and gain > 0.05)


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/camera-change.md``."""
    names = ["change", "champion before", "named rightly in production", "labels", "looks", "decision"]
    names += ["unlabelled", "champion", "challenger"]
    lines = [
        "# The camera changes on a real photo set",
        "",
        "`python -m benchmarks camera-change`: half of `hymenoptera` is trained on (the embedded backbone), the other",
        "half is production through a changed camera. `champion` and `challenger` are the accuracies on the production",
        "pictures that the challenger has not learned from: the truth that the gate's verdict is held against.",
        "",
        *describe_machine(),
        "",
        f"| {' | '.join(names)} |",
        f"|{' --- |' * len(names)}",
        *(f"| {' | '.join(_show(row.get(name, '-')) for name in names)} |" for row in rows),
        "",
        *(f"{row['change']}: {row['reason']}\n" for row in rows),
    ]
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def _show(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)

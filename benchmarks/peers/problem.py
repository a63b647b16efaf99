"""What a peer is asked and how its answer is scored and timed.

Imported by both sides: by the benchmark, and by the peers' scripts under an interpreter that has none of regraft's
dependencies. So it needs the standard library only.
"""

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self


class ProblemError(ValueError):
    """A problem's images and labels do not fit together, or something it names is not there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One training job, equal for every peer; in a file it is one JSON object with these keys."""

    train_images: list[str]
    """Absolute paths of all images the peer may learn from."""
    train_labels: list[str]
    test_images: list[str]
    """Absolute paths of the images that are asked at the end; never seen in training."""
    test_labels: list[str]
    backbone: str
    """Folder with ``config.json`` and ``model.safetensors``, as timm's ``local-dir:`` reads it."""
    epochs: int | None = None
    """Passes over the training images; None leaves each peer its own usual number."""
    batch_size: int = 32
    seed: int = 0
    threads: int = 2
    """Threads torch computes with in the main process; loading workers come on top."""
    size_px: int = 224
    evaluate_epochs: bool = False
    """Also ask the test images after every epoch, with the clock stopped."""

    def __post_init__(self) -> None:
        if len(self.train_images) != len(self.train_labels) or len(self.test_images) != len(self.test_labels):
            raise ProblemError(
                f"{len(self.train_images)} train images have {len(self.train_labels)} labels and "
                f"{len(self.test_images)} test images {len(self.test_labels)}: give one label for each image."
            )
        if unknown := sorted(set(self.test_labels) - set(self.train_labels)):
            raise ProblemError(f"test labels {unknown} occur on no training image: no peer could answer them.")
        missing = [path for path in [*self.train_images, *self.test_images, self.backbone] if not Path(path).exists()]
        if missing:
            raise ProblemError(f"{len(missing)} paths do not exist; first: {missing[0]}. Give absolute paths.")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the problem in a JSON file; an unknown key is a TypeError."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> Path:
        """Write the problem as JSON and return the path."""
        path.write_text(json.dumps(dataclasses.asdict(self)))
        return path

    @property
    def classes(self) -> list[str]:
        """The labels in alphabetical order."""
        return sorted(set(self.train_labels))


def score_labels(predicted: Sequence[str], truth: Sequence[str]) -> dict[str, float]:
    """Return ``test_accuracy`` and ``test_balanced``, the mean recall of the classes in ``truth``; 0 to 1."""
    right: dict[str, list[bool]] = defaultdict(list)
    for guess, label in zip(predicted, truth, strict=True):
        right[label].append(guess == label)
    hits = sum(sum(group) for group in right.values())
    return {
        "test_accuracy": hits / len(truth),
        "test_balanced": sum(sum(group) / len(group) for group in right.values()) / len(right),
    }


class Stopwatch:
    """Wall seconds of a training that is interrupted for evaluations; its laps add up to what it ran."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.laps: list[float] = []

    def lap(self) -> None:
        """End a lap: append the seconds since the last one ended, pauses left out."""
        now = time.perf_counter()
        self.laps.append(now - self._started)
        self._started = now

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for what happens inside."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - before


def report_timing(import_s: float, laps: Sequence[float]) -> dict[str, float | list[float]]:
    """Return the timing part of an answer: the first lap is the building of loaders and model, the rest are epochs."""
    return {
        "seconds": import_s + sum(laps),
        "import_s": import_s,
        "train_s": sum(laps),
        "build_s": laps[0],
        "epoch_seconds": list(laps[1:]),
    }

"""The images that judge a challenger: its own test part, and what was drawn at random from production since.

Which of them speak for the present line and which for the old one is decided here, from where they came from.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.pixel_cache import load_pixels
from regraft.data.labelling.feedback import read_image
from regraft.data.sources.sources import read_intake
from regraft.serving.bundle.runtime import ModelHandle
from regraft.serving.decoding.preprocess import load_input
from regraft.serving.log.reader import read_feedback
from regraft.serving.log.requests import Sampling
from regraft.tasks.graph.part_arrays import Part, read_part
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.workspace.alarms import read_alarm
from regraft.tasks.workspace.workspace import Workspace

RANDOM: Sampling = "random"


@dataclass(frozen=True, slots=True)
class JudgingSample:
    """N test images: rows of the split first, then ``extra`` ones that no version has learned from.

    ``labels`` (N,) are true labels, ``groups`` what each image shows a piece of or None, ``present`` and ``old`` bool
    (N,) say for which line an image speaks; with a test part from before production every image may be neither.
    """

    test: Part
    extra: dict[str, str]
    labels: np.ndarray
    groups: list[str | None]
    present: np.ndarray
    old: np.ndarray

    @property
    def sha256s(self) -> list[str]:
        return [*self.test.sha256s, *self.extra]


def gather_sample(home: Workspace, champion: str | None) -> JudgingSample:
    """Return the images on which ``champion`` and a challenger made from the current data set are compared."""
    test = read_part(home, "test")
    extra = read_unlearned(home, champion) if champion else {}
    drawn = np.array([value == RANDOM for value in test.rows["sampling"]], dtype=bool)
    new_to_champion = _is_new(home, champion, test) if champion else np.zeros(len(drawn), dtype=bool)
    present = drawn & new_to_champion
    known = set(pd.read_csv(home.frozen, dtype=str)["sha256"])
    old = np.array([sha256 in known for sha256 in test.sha256s], dtype=bool) & ~present
    rest = len(extra)
    groups = [group if isinstance(group, str) else None for group in test.rows["group"]]
    return JudgingSample(
        test=test,
        extra=extra,
        labels=np.array([*test.rows["label"], *extra.values()], dtype=object),
        groups=[*groups, *[None] * rest],
        present=np.concatenate([present, np.ones(rest, dtype=bool)]),
        old=np.concatenate([old, np.zeros(rest, dtype=bool)]),
    )


def read_unlearned(home: Workspace, champion: str) -> dict[str, str]:
    """Return content hash -> label of the random production sample since the champion's alarm opened.

    Only images of which the data set at hand holds none: a version was trained on the others, or they are in its test
    part already. Without an open alarm there is no present line that differs from the old one.
    """
    opened_at = read_alarm(home, champion).opened_at
    if opened_at is None:
        return {}
    held = set(read_manifest(home.dataset, ["sha256"])["sha256"])
    found = {}
    for row in read_feedback(home.predictions, version=champion):
        is_asked = row.sampling == RANDOM and row.asked_at is not None and row.asked_at >= opened_at
        if is_asked and row.image_sha256 not in held and read_image(home.images, row.image_sha256) is not None:
            found[row.image_sha256] = row.label
    return dict(sorted(found.items()))


def _is_new(home: Workspace, champion: str, test: Part) -> np.ndarray:
    """Say of each test image whether it came with a source that the champion was not made from, bool ``(N,)``."""
    intake = home.lineage / champion / "data" / "store" / "intake.json"
    if not intake.exists():
        return np.zeros(len(test.rows), dtype=bool)
    known = {source.name for source in read_intake(intake)}
    manifest = read_manifest(home.dataset, ["sha256", "source"])
    old = set(manifest.loc[manifest["source"].isin(known), "sha256"])
    return np.array([sha256 not in old for sha256 in test.sha256s], dtype=bool)


def answer_sample(home: Workspace, version: str, sample: JudgingSample, batch: int = 32) -> np.ndarray:
    """Return for each image whether the registered version names its label, bool ``(N,)``.

    The answers come from the ONNX model that would be served, through its own preprocessing.
    """
    handle = ModelHandle.open(home.models_store / "versions" / version)
    spec = handle.info.preprocess
    pixels = load_pixels(home.dataset, sample.test.sha256s, spec, home.cache)
    late = [load_input(read_image(home.images, sha256) or b"", spec, clip=True) for sha256 in sample.extra]
    named: list[str] = []
    with show_progress(f"judging {version}") as progress:
        for images in (pixels, np.stack(late) if late else pixels[:0]):
            for start in range(0, len(images), batch):
                answers = handle.predict(np.ascontiguousarray(images[start : start + batch])).probabilities
                named += [handle.info.labels[index] for index in answers.argmax(axis=1)]
                progress(len(named), len(sample.labels))
    return np.array(named, dtype=object) == sample.labels

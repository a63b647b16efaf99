"""The introduction of images to models: a part of the split as one array of pixels and one of labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.pixel_cache import load_pixels
from regraft.data.split.split import read_split
from regraft.models.statistics.intervals import number_groups
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.tasks.graph.progress import show_progress
from regraft.tasks.workspace.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one or more parts of the split."""

    rows: pd.DataFrame
    labels: list[str]

    @property
    def sha256s(self) -> list[str]:
        return list(self.rows["sha256"])

    @property
    def targets(self) -> np.ndarray:
        """Label indices, shape ``(N,)``."""
        index = {label: number for number, label in enumerate(self.labels)}
        return self.rows["label"].map(index).to_numpy(dtype=np.int64)

    @property
    def groups(self) -> np.ndarray:
        """Group of each image, integers, shape ``(N,)``; an image without one is a group by itself."""
        return number_groups(list(self.rows["group"]))


def read_part(home: Workspace, *parts: str) -> Part:
    """Return the rows of the named parts; labels are those of the whole split, sorted."""
    split = read_split(home.split)
    return Part(split[split["part"].isin(parts)].reset_index(drop=True), sorted(split["label"].unique()))


def read_paths(home: Workspace, part: Part) -> list[str]:
    """Return where each image of ``part`` lies in its source."""
    manifest = read_manifest(home.dataset).drop_duplicates("sha256").set_index("sha256")
    return [str(path) for path in manifest.loc[part.sha256s, "path"]]


def read_sizes(home: Workspace, part: Part) -> np.ndarray:
    """Return the original width and height of the images of ``part`` in px, shape ``(N, 2)``."""
    manifest = read_manifest(home.dataset).drop_duplicates("sha256").set_index("sha256")
    return manifest.loc[part.sha256s, ["width", "height"]].to_numpy(dtype=np.int64)


def read_pixels(home: Workspace, sha256s: Sequence[str], spec: PreprocessSpec) -> np.ndarray:
    """Return the images as the served model will see them, uint8 ``(N, size, size, 3)``."""
    with show_progress(f"decoding at {spec.size_px} px") as progress:
        return load_pixels(home.dataset, list(sha256s), spec, home.cache, progress=progress)

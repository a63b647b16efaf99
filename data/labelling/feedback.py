"""Production images to be labelled, and the labels that came back as a further source for ``data.sources.sources``."""

import contextlib
import csv
import hashlib
import io
import logging
import math
import os
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from regraft.serving.decoding.preprocess import ImageError, identify_format
from regraft.serving.files import durable

logger = logging.getLogger(__name__)

CANDIDATES_PER_PICK = 4
"""Uncertain images are picked for diversity among this many times as many as are wanted."""

Why = Literal["random", "uncertain"]


class LabellingPool(Protocol):
    """The arrays of a slice of production that choosing needs; M answers."""

    ids: Sequence[str]
    at: np.ndarray
    """``(M,)``, Unix seconds."""
    probabilities: np.ndarray
    """``(M, K)``."""
    embeddings: np.ndarray
    """``(M, P)``."""
    image_sha256: Sequence[str]


class LabelledRow(Protocol):
    """One label that came back for one prediction."""

    id: str
    label: str
    image_sha256: str
    sampling: str


@dataclass(frozen=True, slots=True)
class FeedbackBatch:
    """What became of the labels that came back."""

    folder: Path | None
    """Holds the images and ``manifest.csv``, which is the new source; None if there is nothing to add."""
    images: int
    """How many images the folder holds."""
    conflicts: tuple[str, ...]
    """Content hashes of images that were given more than one label; the last one counts."""
    missing: tuple[str, ...]
    """Content hashes of labelled images whose bytes are gone or changed."""


def find_candidates(hashes: Sequence[str], labelled: Collection[str]) -> np.ndarray:
    """Return the index of the first answer of every distinct image that has no label yet."""
    seen = {"", *labelled}  # without a hash the bytes could not be found again
    picked = []
    for index, sha256 in enumerate(hashes):
        if sha256 not in seen:
            seen.add(sha256)
            picked.append(index)
    return np.array(picked, dtype=np.int64)


def measure_margins(probabilities: np.ndarray) -> np.ndarray:
    """Return the distance (0-1) between the two largest probabilities of each row of ``(M, K)``; NaN counts as 0."""
    ordered = np.sort(np.nan_to_num(np.asarray(probabilities, np.float64), nan=0.0), axis=1)
    return ordered[:, -1] - ordered[:, -2] if ordered.shape[1] > 1 else 1 - ordered[:, -1]


def spread_out(points: np.ndarray, count: int) -> list[int]:
    """Return ``count`` rows of ``(M, P)``: the first, then always the one farthest from all picked ones."""
    points = np.nan_to_num(np.asarray(points, np.float64))
    picked: list[int] = []
    distance = np.full(len(points), np.inf)
    for _ in range(min(count, len(points))):
        index = int(distance.argmax())  # all infinite at first: row 0
        picked.append(index)
        distance = np.minimum(distance, np.linalg.norm(points - points[index], axis=1))
        distance[picked] = -1.0
    return picked


def choose_for_labelling(
    window: LabellingPool,
    n: int,
    seed: int,
    *,
    labelled: Collection[str] = (),
    random_share: float = 0.5,
    drawn_after: float | None = None,
) -> list[tuple[str, Why]]:
    """Return up to ``n`` (prediction id, why) to ask labels for, every image once.

    A share is uniform random: only these give an unbiased accuracy, so they are named "random" and must not be mixed
    with the others in a score. The others are answers with the smallest margin, spread out in the embedding.

    Args:
        window: Answers to choose from.
        n: Images to ask for.
        seed: Equal seeds choose equally.
        labelled: Content hashes of images that have a label already, or were asked for.
        random_share: Share of ``n`` that is drawn at random, 0-1.
        drawn_after: Draw at random only from answers after this Unix time: what an earlier choice left over is no
            random sample any more, because it took the hard ones.
    """
    candidates = find_candidates(window.image_sha256, labelled)
    wanted_random = math.ceil(n * random_share)
    late = candidates if drawn_after is None else candidates[np.asarray(window.at)[candidates] > drawn_after]
    uniform = np.random.default_rng(seed).permutation(late)[:wanted_random]
    rest = np.setdiff1d(candidates, uniform)
    wanted = n - wanted_random
    margins = measure_margins(np.asarray(window.probabilities)[rest]) if len(rest) else np.zeros(0)
    doubtful = rest[np.argsort(margins, kind="stable")[: wanted * CANDIDATES_PER_PICK]]
    spread = doubtful[spread_out(np.asarray(window.embeddings)[doubtful], wanted)] if wanted and len(doubtful) else []
    chosen: list[tuple[str, Why]] = [(window.ids[index], "random") for index in uniform]
    return chosen + [(window.ids[index], "uncertain") for index in spread]


def settle_labels(
    rows: Iterable[LabelledRow], skip: Collection[str]
) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    """Return content hash -> (last label, how it was drawn), sorted, and the hashes that were given different labels.

    An image that was once asked for at random stays random, whatever is said of it later.
    """
    labels: dict[str, tuple[str, str]] = {}
    conflicts = set()
    for row in rows:
        if row.image_sha256 in skip:
            continue
        label, sampling = labels.get(row.image_sha256, (row.label, row.sampling))
        if label != row.label:
            conflicts.add(row.image_sha256)
        labels[row.image_sha256] = (row.label, "random" if "random" in (sampling, row.sampling) else row.sampling)
    return dict(sorted(labels.items())), tuple(sorted(conflicts))


def read_image(images: Path, sha256: str) -> bytes | None:
    """Return the kept bytes of this content, from ``<sha256>[.ext]`` in the folder or its ``<first two>/`` folder.

    None if they are not there, were evicted meanwhile, or are no longer what their name says.
    """
    for folder in (images / sha256[:2], images):
        for path in sorted(folder.glob(f"{sha256}*")):
            with contextlib.suppress(FileNotFoundError):
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest() == sha256:
                    return data
    return None


def find_extension(data: bytes) -> str:
    """Return the extension, with its dot, that the content of an image file asks for; ``.bin`` if nothing reads it."""
    try:  # the signature is enough: opening would look for a size limit of its own
        image_format = identify_format(data).lower()
    except ImageError:
        image_format = "bin"
    return {"jpeg": ".jpg", "tiff": ".tif"}.get(image_format, f".{image_format}")


def encode_manifest(rows: Sequence[tuple[str, str, str]]) -> bytes:
    """Return the CSV ``path,label,sampling`` of these rows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("path", "label", "sampling"))
    writer.writerows(rows)
    return buffer.getvalue().encode()


def copy_images(labels: dict[str, tuple[str, str]], images: Path, into: Path) -> list[tuple[str, str, str]]:
    """Copy every labelled image that is still kept into ``into`` and return the manifest's rows."""
    rows = []
    for sha256, (label, sampling) in labels.items():
        data = read_image(images, sha256)
        if data is not None:
            name = sha256 + find_extension(data)
            (into / name).write_bytes(data)
            rows.append((name, label, sampling))
    return rows


def publish_batch(temporary: Path, rows: list[tuple[str, str, str]], into: Path) -> Path:
    """Move the filled folder to ``into/<hash of its manifest>``, or drop it if that is there, and return the place."""
    manifest = encode_manifest(rows)
    (temporary / "manifest.csv").write_bytes(manifest)
    folder = into / hashlib.sha256(manifest).hexdigest()[:12]
    if not folder.is_dir():
        durable.replace_folder(temporary, folder)
    return folder


def collect_feedback(
    rows: Iterable[LabelledRow], images: Path, into: Path, *, skip: Collection[str] = ()
) -> FeedbackBatch:
    """Turn labelled production images into a source: ``into/<batch hash>/`` with the images and ``manifest.csv``.

    The folder appears complete or not at all and is never changed; equal labels lead to the same folder.

    Args:
        rows: Labels, oldest first; the last label of an image counts.
        images: Folder in which the service keeps image bytes by content hash.
        into: Folder of all batches.
        skip: Content hashes that a data set or an earlier batch already has.
    """
    labels, conflicts = settle_labels(rows, frozenset(skip))
    temporary = into / f".batch.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        kept = copy_images(labels, images, temporary)
        folder = publish_batch(temporary, kept, into) if kept else None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    stems = {Path(name).stem for name, *_ in kept}
    missing = tuple(sha256 for sha256 in labels if sha256 not in stems)
    logger.info("feedback collected images=%d conflicts=%d missing=%d", len(kept), len(conflicts), len(missing))
    return FeedbackBatch(folder, len(kept), conflicts, missing)

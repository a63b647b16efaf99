"""A window of production put beside the reference: every test that a verdict rests on, none of the decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from regraft.data.drift import statistics
from regraft.data.drift.dependence import measure_dependence
from regraft.data.drift.reference import Reference
from regraft.data.drift.statistics import FamilyTest

MAX_CLASS_COLUMNS = 20
"""Probabilities of more classes than this are tested on the most frequent ones and the largest probability."""


class Window(Protocol):
    """A slice of production: M answers in the order in which they were given, as ``regraft.serving.log`` reads them."""

    probabilities: np.ndarray
    """``(M, K)``."""
    embeddings: np.ndarray
    """Reduced with the reference's directions, ``(M, P)``."""
    quality: np.ndarray
    """``(M, Q)``."""
    image_sha256: Sequence[str]
    """Content hash per answer; the same image sent again is counted once."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the tests measured; p-values of a family are corrected for its columns, not yet for the other families."""

    families: dict[str, FamilyTest]
    """quality, embedding, softmax and labels (predicted classes; no columns)."""
    unexplained: dict[str, float]
    """Family -> p-value against the reference re-weighted to the window's mix: small means the images changed."""
    class_shares: tuple[tuple[float, float], ...]
    """Per class, share in the reference and estimated share in the window."""
    estimated_accuracy: float
    """0-1, without labels."""
    told: float
    """Independent images that say as much as those of the window, where the dependence is strongest."""


def check_window(reference: Reference, window: Window) -> None:
    """Raise if the window cannot have been answered by the version of this reference.

    Raises:
        ValueError: Naming every array whose shape does not fit.
    """
    rows = len(window.image_sha256)
    pairs = {
        "probabilities": (window.probabilities, reference.softmax),
        "embeddings": (window.embeddings, reference.embeddings),
        "quality": (window.quality, reference.quality),
    }
    problems = [
        f"{name} has shape {np.shape(new)}, expected ({rows}, {old.shape[1]})"
        for name, (new, old) in pairs.items()
        if len(new) != rows or (rows and np.shape(new) != (rows, old.shape[1]))
    ]
    if problems:
        raise ValueError(
            f"the window does not fit the reference: {'; '.join(problems)}. "
            "Compare a window of one version with the reference of that version."
        )


def keep_distinct(hashes: Sequence[str]) -> np.ndarray:
    """Return the index of the first answer for every distinct image, in order; an unknown ("") hash is distinct."""
    first: dict[str, int] = {}
    for index, sha256 in enumerate(hashes):
        first.setdefault(sha256 or f"unknown {index}", index)
    return np.array(sorted(first.values()), dtype=np.int64)


def pick_class_columns(reference: Reference, softmax: np.ndarray) -> np.ndarray:
    """Return the columns of ``(M, K)`` that are tested: all, or the most frequent ones and the largest probability."""
    if softmax.shape[1] <= MAX_CLASS_COLUMNS:
        return softmax
    common = np.argsort(-reference.softmax.mean(axis=0), kind="stable")[:MAX_CLASS_COLUMNS]
    return np.concatenate([softmax[:, np.sort(common)], softmax.max(axis=1, keepdims=True)], axis=1)


def run_tests(
    reference: Reference,
    columns: dict[str, np.ndarray],
    dependence: dict[str, np.ndarray],
    weights: np.ndarray | None = None,
) -> dict[str, FamilyTest]:
    """Return the families quality, embedding and softmax of a window's ``columns`` against the (weighted) reference."""
    old = {
        "quality": reference.quality,
        "embedding": reference.embeddings,
        "softmax": pick_class_columns(reference, reference.softmax),
    }
    families = {}
    for family, values in old.items():
        names: Sequence[str] = [f"{family}_{index}" for index in range(values.shape[1])]
        if family == "quality":
            names = reference.quality_names
        families[family] = statistics.compare_columns(values, columns[family], names, weights, dependence[family])
    return families


def compare_window(reference: Reference, window: Window, rows: np.ndarray) -> Comparison:
    """Return every test of the ``rows`` of a window against the reference."""
    softmax = np.asarray(window.probabilities, np.float64)[rows]
    classes = softmax.shape[1]
    columns = {
        "quality": np.asarray(window.quality)[rows],
        "embedding": np.asarray(window.embeddings)[rows],
        "softmax": pick_class_columns(reference, softmax),
    }
    predicted = np.nan_to_num(softmax, nan=-1.0).argmax(axis=1)
    dependence = {family: measure_dependence(values) for family, values in columns.items()}
    named = measure_dependence(np.eye(classes)[predicted])
    families = run_tests(reference, columns, dependence)
    mix = statistics.compare_classes(reference.softmax.argmax(axis=1), predicted, classes, float(named.max()))
    families["labels"] = FamilyTest(mix, ())
    weights = statistics.estimate_weights(reference.confusion, np.bincount(predicted, minlength=classes) / len(rows))
    # A class that vanished keeps a trace of weight, so that no column is left without any reference.
    reweighted = run_tests(reference, columns, dependence, weights[reference.labels] + 1e-9)
    old_shares = reference.confusion.sum(axis=1) / reference.confusion.sum()
    return Comparison(
        families=families,
        unexplained={name: family.p_value for name, family in reweighted.items()},
        class_shares=tuple(zip(old_shares.tolist(), (old_shares * weights).tolist(), strict=True)),
        estimated_accuracy=statistics.estimate_accuracy(reference.softmax, reference.confusion, softmax),
        told=len(rows) / max(float(np.median(each)) for each in dependence.values()),
    )

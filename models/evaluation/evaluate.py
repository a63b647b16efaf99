"""What a classifier is worth on held-out images: scores with intervals, confusion and calibration, as JSON and CSV.

The scores are in ``models/statistics/scorecard.py``; the pictures drawn from them in ``models/report``.
"""

import csv
import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from regraft.models.statistics.design import Design, count_groups, measure_design
from regraft.models.statistics.intervals import wilson_interval
from regraft.models.statistics.metrics import rank_images, score_ranking, tabulate_reliability
from regraft.models.statistics.scorecard import HeldOut, enclose_scores, gather_predictions
from regraft.serving.files.durable import replace_folder, write_bytes, write_json

DIGITS = 9


class EvaluateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How held-out images are scored."""

    bootstrap: int = Field(2000, ge=100, le=100_000)
    """Resamples behind each bootstrap interval."""
    seed: int = Field(0, ge=0)
    """Seed of the resampling."""
    bins: int = Field(15, ge=2, le=100)
    """Confidence bins of the calibration error and the reliability diagram."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Two-sided coverage of every interval."""
    device: Literal["auto", "cpu", "cuda"] = "auto"  # compute.device.DeviceName: to import it is to import torch
    """Where the network answers, in float32 on each; another device gives other last digits."""
    threads: int = Field(2, ge=1)
    """CPU threads; another number gives other last digits."""
    shift_images: int = Field(100, ge=0)
    """Test images, at most, that are looked at again under another lamp, lens, sensor or pose; 0 leaves that out. Each
    passes through the network once for each of eleven shifts: 100 images cost 1,100 passes, 5 s on two cores."""


def tabulate_classes(held: HeldOut, confidence: float) -> list[dict[str, Any]]:
    """Return one row per class: n, precision, recall, F1 with intervals; what is undefined is left out.

    ``groups`` is said of a class where images come in groups: how many the ``n`` are of.
    """
    rows = []
    for k, name in enumerate(held.names):
        actual, guessed = held.labels == k, held.predicted == k
        row: dict[str, Any] = {"label": name, "n": int(actual.sum()), "predicted": int(guessed.sum())}
        if held.groups is not None:
            row["groups"] = len(np.unique(held.groups[actual]))
        for score, inside in (("recall", actual), ("precision", guessed), ("f1", actual | guessed)):
            if n := np.count_nonzero(inside):
                right = (actual & guessed)[inside]
                hits, design = np.count_nonzero(right), weigh_proportion(right, held.groups, inside, confidence)
                bounds = wilson_interval(design.shrink(hits), design.shrink(n), confidence)
                values = np.array([hits / n, *bounds], dtype=float)
                # F1 is a function of hits among the union, a proportion: Hand, Christen and Kirielle 2021.
                values = 2 * values / (1 + values) if score == "f1" else values
                row |= dict(zip((score, f"{score}_low", f"{score}_high"), map(float, values), strict=True))
        if 0 < row["n"] < len(held.labels):
            area, precision = score_ranking(rank_images(held.probabilities[:, k], actual), np.ones((1, len(actual))))
            row |= {"roc_auc": float(area[0]), "pr_auc": float(precision[0]), "prevalence": row["n"] / len(actual)}
        rows.append(row)
    return rows


def weigh_proportion(right: np.ndarray, groups: np.ndarray | None, inside: np.ndarray, confidence: float) -> Design:
    """Return the design of the share of ``right`` images ``(n,)``, those ``inside`` ``(N,)`` with their ``groups``."""
    if groups is None:
        return Design()
    influence = (right - right.mean()) / len(right)
    return measure_design(influence, np.zeros(len(right), dtype=np.int64), groups[inside], confidence)


def note_limits(held: HeldOut) -> list[str]:
    """Return what a reader must know about scores that could not be taken over all classes."""
    absent = [name for k, name in enumerate(held.names) if not np.any(held.labels == k)]
    notes = []
    if absent:
        notes.append(
            f"No held-out image of {', '.join(absent)}: recall is unknown there, and means leave these classes out."
        )
    if held.groups is not None:
        sizes = np.bincount(held.groups)
        notes.append(
            f"The {len(held.labels)} held-out images come in {len(sizes)} groups of up to {sizes.max()}: images of one "
            "group count as far as they differ, and the intervals are those of other groups, not of other images."
        )
        alone = [
            name
            for k, name in enumerate(held.names)
            if np.any(held.labels == k) and len(np.unique(held.groups[held.labels == k])) == 1
        ]
        if alone:
            notes.append(f"All held-out images of {', '.join(alone)} are of one group: of another nothing is known.")
    if not held.ranked:
        notes.append("ROC-AUC and PR-AUC need held-out images of at least two classes and are left out.")
    return notes


def evaluate_predictions(
    probabilities: np.ndarray,
    labels: np.ndarray,
    label_names: Sequence[str],
    config: EvaluateConfig,
    *,
    logits: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Return all scores of a classifier on held-out images, each with its interval.

    Args:
        probabilities: After temperature scaling, shape ``(N, K)``.
        labels: True classes as indices into ``label_names``, shape ``(N,)``.
        label_names: K names; with two of them the second is the positive class of ROC-AUC and PR-AUC.
        config: Resamples, bins and coverage.
        logits: Raw logits ``(N, K)``; with them calibration is also given before scaling.
        groups: Group of each image ``(N,)``, integers, as ``number_groups`` gives them; where some
            group has two images, groups are what every interval is about and ``test.groups`` says how many.
        progress: Called with (resamples done, resamples in all).

    Returns:
        ``test`` holds plain numbers only (``accuracy``, ``accuracy_low``, ...), which DVC compares between versions;
        ``classes``, ``confusion`` (rows true, columns predicted), ``reliability``, ``notes`` are lists.

    Raises:
        ValueError: If the arrays do not fit together, listing every problem.
    """
    held = gather_predictions(probabilities, labels, label_names, config.bins, logits, groups)
    return {
        "test": summarise_scores(held, config, progress),
        "confidence": config.confidence,
        "labels": list(held.names),
        "absent_labels": [name for k, name in enumerate(held.names) if not np.any(held.labels == k)],
        "classes": tabulate_classes(held, config.confidence),
        "confusion": count_confusion(held).tolist(),
        "reliability": tabulate_stages(held),
        "notes": note_limits(held),
    }


def summarise_scores(
    held: HeldOut, config: EvaluateConfig, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """Return counts of images and errors, and every score with its interval, as plain numbers."""
    n, sizes = len(held.labels), np.bincount(held.labels, minlength=len(held.names))
    test = {"n": n, "errors": int(np.sum(held.predicted != held.labels)), "majority_share": float(sizes.max() / n)}
    if (count := count_groups(held.groups)) is not None:
        test["groups"] = count
    test |= enclose_scores(
        held, resamples=config.bootstrap, seed=config.seed, confidence=config.confidence, progress=progress
    )
    if held.ranked:
        test["prevalence"] = float(np.mean(sizes[held.ranked] / n))
    return test


def count_confusion(held: HeldOut) -> np.ndarray:
    """Return how many images of each class (rows) are answered with each (columns), ``(K, K)``."""
    confusion = np.zeros((len(held.names), len(held.names)), dtype=int)
    np.add.at(confusion, (held.labels, held.predicted), 1)
    return confusion


def tabulate_stages(held: HeldOut) -> list[dict[str, Any]]:
    """Return the rows of the reliability diagram: before temperature scaling where logits are known, and after."""
    rows = [{"stage": "after", **row} for row in tabulate_reliability(held.binned)]
    if held.raw_binned is None:
        return rows
    return [{"stage": "before", **row} for row in tabulate_reliability(held.raw_binned)] + rows


def round_numbers(value: Any) -> Any:
    """Return ``value`` with floats rounded, so that the last bit of a matrix product never changes a file."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: round_numbers(item) for key, item in value.items()}
    return [round_numbers(item) for item in value] if isinstance(value, list | tuple) else value


def encode_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """Return a CSV file; floats get nine digits after the point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{cell:.{DIGITS}f}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def tabulate_predictions(
    sha256s: Sequence[str], paths: Sequence[str], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> bytes:
    """Return predictions.csv: one row per image, in the order given."""
    predicted = probabilities.argmax(axis=1)
    rows = [
        [sha, path, names[label], names[guess], float(row[guess]), *map(float, row)]
        for sha, path, label, guess, row in zip(sha256s, paths, labels, predicted, probabilities, strict=True)
    ]
    return encode_csv(["sha256", "path", "label", "predicted", "probability", *(f"p_{n}" for n in names)], rows)


def write_evaluation(
    into: Path,
    metrics: dict[str, Any],
    *,
    sha256s: Sequence[str],
    labels: np.ndarray,
    probabilities: np.ndarray,
    paths: Sequence[str],
) -> None:
    """Replace the folder ``into`` by metrics.json, predictions.csv, confusion.csv and reliability.csv.

    Args:
        into: The evaluation folder.
        metrics: What ``evaluate_predictions`` returned for the same images.
        sha256s: Content hash of each image, N of them.
        labels: True classes, shape ``(N,)``.
        probabilities: Shape ``(N, K)``.
        paths: Where each image came from, for people.
    """
    names = metrics["labels"]
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    write_json(temporary / "metrics.json", round_numbers(metrics))
    table = tabulate_predictions(sha256s, paths, labels, probabilities, names)
    write_bytes(temporary / "predictions.csv", table)
    pairs = [[names[a], names[p]] for a, p in zip(labels, np.asarray(probabilities).argmax(axis=1), strict=True)]
    write_bytes(temporary / "confusion.csv", encode_csv(["actual", "predicted"], pairs))
    header = ["stage", "bin_low", "bin_high", "n", "confidence", "accuracy"]
    rows = [[row[column] for column in header] for row in metrics["reliability"]]
    write_bytes(temporary / "reliability.csv", encode_csv(header, rows))
    replace_folder(temporary, into)

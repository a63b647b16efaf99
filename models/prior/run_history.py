"""The memory of finished runs: which candidate scored what on which data set, and what that says of a new one.

One JSON line per run, appended under a lock and flushed. A writer that is killed leaves at most one torn last line,
which readers skip and the next writer removes.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, StringConstraints, ValidationError

from regraft.serving.files.json_lines import append_chosen, read_lines

logger = logging.getLogger(__name__)

MIN_WEIGHT = 0.001
"""Least weight of a data set, however unlike: what is known of a candidate from there alone is still known."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class TrackRecordError(ValueError):
    """The track record cannot be read; the message names the line."""

    exit_code = 2


class Descriptors(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What makes data sets alike or unlike, as far as choosing a backbone is concerned."""

    n_train: int = Field(ge=1)
    """Labelled training images."""
    classes: int = Field(ge=2)
    """Classes."""
    imbalance: FiniteFloat = Field(ge=1)
    """Images of the largest class for each of the smallest."""
    grey_share: FiniteFloat = Field(ge=0, le=1)
    """Share of images without colour."""
    median_side_px: FiniteFloat = Field(gt=0)
    """Median of the shorter side."""
    mean_aspect: FiniteFloat = Field(ge=1)
    """Mean of longer by shorter side."""
    embedding: tuple[FiniteFloat, ...] | None = Field(None, min_length=2)
    """Mean features of the images under the embedded backbone, where they were taken."""


class Recipe(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How a candidate was trained."""

    kept: Literal["probe", "finetuned"]
    """The network that was kept: a probe on frozen features, or one trained throughout."""
    budget: int = Field(ge=0)
    """Images shown in training, repeats counted; 0 for a probe."""
    size_px: int = Field(ge=1)
    """Side of the network's input."""


class RunRecord(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One finished run of one candidate on one data set."""

    format: Literal[1] = 1
    """Version of this line's layout."""
    dataset: Sha256
    """Digest of the manifest."""
    labels: Sha256
    """Digest of the list of classes and each image's label."""
    descriptors: Descriptors
    """Of the data set."""
    candidate: str = Field(min_length=1)
    """The backbone's name, ``arch.tag``."""
    weights: Sha256
    """Digest of the backbone's weights."""
    recipe: Recipe
    """How it was trained."""
    score: FiniteFloat = Field(ge=0, le=1)
    """Accuracy, 0-1: cross-validated on the sampled images for a probe, on the validation images for what was kept."""
    n: int = Field(ge=1)
    """Images behind the score."""

    @property
    def identity(self) -> tuple[str, str, str, str, Recipe]:
        """Return what two records of one run share, whatever they scored."""
        return self.dataset, self.labels, self.candidate, self.weights, self.recipe


def append_record(path: Path, record: RunRecord) -> bool:
    """Add a record; return False, and leave the file as it is, if that run is stored already.

    Safe beside other writers on one machine. A torn last line of a writer that was killed is removed first.

    Args:
        path: The JSON lines; made with its folder if absent.
        record: A second one of the same data set, labels, candidate, weights and recipe is not stored: the first stays.

    Raises:
        TrackRecordError: If a line of the file is not a record; the file stays as it is.
    """
    line = json.dumps(record.model_dump(mode="json"), sort_keys=True, allow_nan=False, ensure_ascii=False).encode()

    def choose(present: list[bytes]) -> list[bytes]:
        known = any(record.identity == other.identity for other in parse_lines(present, path))
        return [] if known else [line]

    if not append_chosen(path, choose):
        logger.debug("record known already candidate=%s dataset=%s", record.candidate, record.dataset[:12])
        return False
    logger.info("record stored candidate=%s dataset=%s score=%.4f", record.candidate, record.dataset[:12], record.score)
    return True


def read_records(path: Path) -> list[RunRecord]:
    """Return all records in the order they were stored, none if there is no file; a torn last line is skipped.

    Raises:
        TrackRecordError: If a whole line is not a record.
    """
    return parse_lines(read_lines(path), path)


def parse_lines(lines: Sequence[bytes], path: Path) -> list[RunRecord]:
    """Return the records of a file's whole lines; ``path`` is named in messages.

    Raises:
        TrackRecordError: If a line is not a record.
    """
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(RunRecord.model_validate_json(line))
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the line"
            raise TrackRecordError(
                f"{path} line {number} is not a run record ({where}: {first['msg']}); delete that line, the others "
                f"stand on their own, or restore the file from a copy. A newer version may have written it."
            ) from exc
    return records


def rate_by_record(
    records: Sequence[RunRecord], descriptors: Descriptors, candidates: Sequence[str], exclude_dataset: str | None
) -> dict[str, float | None]:
    """Return how far each candidate stood above the others on past data sets, in balanced accuracy; None if unknown.

    Only runs on one data set with the same kind and budget of training are compared with each other. Every such
    comparison has its own level, every candidate one offset, and both are fitted by least squares: where all candidates
    were in all comparisons, the offset is the mean of the results centred by comparison. Where only the strongest went
    on to a longer training, as in successive halving, plain centring would hold their strong company against them.

    Args:
        records: Of finished runs.
        descriptors: Of the data set at hand; similar data sets weigh more, see ``weigh_datasets``.
        candidates: Names to rate; None for one that was never compared with another.
        exclude_dataset: Digest of the data set at hand, which must not be judged by its own results.
    """
    comparisons = group_comparisons([record for record in records if record.dataset != exclude_dataset])
    seen = sorted({name for _, scores in comparisons for name in scores})
    if not seen:
        return dict.fromkeys(candidates)
    counts = Counter(dataset for dataset, _ in comparisons)
    described = {record.dataset: record.descriptors for record in records if record.dataset in counts}
    weights = dict(zip(described, weigh_datasets(descriptors, list(described.values())), strict=True))
    rows, results = [], []
    for dataset, scores in comparisons:
        weight = np.sqrt(weights[dataset] / counts[dataset])  # a data set counts once, however often it was compared on
        design = np.array([[name == other for other in seen] for name in scores], dtype=np.float64)
        level = np.array(list(scores.values()))
        rows.append(weight * (design - design.mean(axis=0)))
        results.append(weight * (level - level.mean()))
    # Offsets are free up to a constant within each set of connected candidates; the shortest solution centres them.
    offsets = np.linalg.lstsq(np.concatenate(rows), np.concatenate(results), rcond=1e-9)[0]
    known = dict(zip(seen, offsets.tolist(), strict=True))
    return {name: known.get(name) for name in candidates}


def group_comparisons(records: Sequence[RunRecord]) -> list[tuple[str, dict[str, float]]]:
    """Return each comparison of at least two candidates: its data set's digest and every candidate's score.

    The input size belongs to the candidate; of several it counts with its best.
    """

    def key(record: RunRecord) -> tuple[str, str, str, int]:
        return record.dataset, record.labels, record.recipe.kept, record.recipe.budget

    comparisons = []
    for (dataset, *_), group in groupby(sorted(records, key=lambda each: (key(each), each.candidate, each.score)), key):
        scores = {record.candidate: record.score for record in group}  # the last of a candidate, its best, stays
        if len(scores) > 1:
            comparisons.append((dataset, scores))
    return comparisons


def weigh_datasets(target: Descriptors, others: Sequence[Descriptors]) -> np.ndarray:
    """Return a weight in 0-1 for each of ``others``: 1 where it is described like ``target``, falling with distance.

    A Gaussian kernel of width 1 on the root mean square difference of descriptors: the logarithms of counts, ratios and
    pixels and the grey share, each divided by its standard deviation over all data sets in sight. Where all have
    embeddings of one length, the cosine distance counts like one more descriptor.
    """
    table = np.array([list_numbers(each) for each in (target, *others)])
    spread = table.std(axis=0)
    gaps = ((table[1:] - table[0]) / np.where(spread > 1e-9, spread, 1)) ** 2
    embeddings = [each.embedding for each in (target, *others)]
    if None not in embeddings and len({len(each) for each in embeddings}) == 1:
        vectors = np.array(embeddings)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        distances = 1 - vectors[1:] @ vectors[0]
        # On average 2, like the squared difference of two standardised numbers.
        gaps = np.column_stack([gaps, 2 * distances / max(distances.mean(), 1e-12)])
    return np.maximum(np.exp(-0.5 * gaps.mean(axis=1)), MIN_WEIGHT)


def list_numbers(descriptors: Descriptors) -> list[float]:
    """Return what is compared of the descriptors; what spans orders of magnitude by its logarithm."""
    spans = descriptors.n_train, descriptors.classes, descriptors.imbalance
    sides = descriptors.median_side_px, descriptors.mean_aspect
    return [*np.log([*spans, *sides]).tolist(), descriptors.grey_share]

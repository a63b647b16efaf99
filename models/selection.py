"""Choose the backbone: a linear probe on cached features of every candidate, the simplest within noise of the best."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from models.adaptation import adapt_batchnorm
from models.backbones import CONFIG_FILE, WEIGHTS_FILE, build_backbone, read_input
from models.candidates import Fit, choose_fit, describe_preprocess, sample_rows, score_features
from models.depth import count_work, group_by_depth
from models.device import DeviceName, limit_threads
from models.features import extract_features
from models.hub import Backbone, list_backbones, retrieve_backbone
from models.intervals import wilson_interval
from models.probe import STRENGTHS
from serving.durable import replace_folder, write_json
from serving.preprocess import PreprocessSpec

logger = logging.getLogger(__name__)

SELECTION_FILE = "selection.json"
BACKBONE_FOLDER = "backbone"


class SelectConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which backbones compete, and on how many images."""

    candidates: Literal["auto"] | list[str] = "auto"
    """Names ``arch.tag``, or "auto": all of the mirror and those that ship with the repository."""
    mirror: str | None = None
    """Folder or http(s) address with one folder per backbone."""
    max_images: int = Field(240, ge=10)
    """Training images, at most, that the candidates are compared on."""
    adapt_images: int = Field(96, ge=0)
    """Of those, images that BatchNorm statistics are re-estimated on; 0 keeps the source's."""
    fit: Fit = "auto"
    """How images become square; "auto" squashes nearly square ones and crops others."""
    folds: int = Field(5, ge=2)
    """Of the cross-validation."""
    repeats: int = Field(2, ge=1)
    """Of the whole cross-validation."""
    seed: int = Field(0, ge=0)
    """Of the sample and the folds."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""


class Candidate(BaseModel, frozen=True, extra="forbid"):
    """One row of the ranking: probe accuracy 0-1 with its 95 % Wilson interval, and what the network weighs."""

    name: str
    score: float
    low: float
    high: float
    standard_error: float
    gflops: float
    parameters: int
    licence: str
    sha256: str
    source: str
    strength: float
    preprocess: PreprocessSpec


class Selection(BaseModel, frozen=True, extra="forbid"):
    """The verdict: ``ranking`` by score; ``chosen`` needs the least work of those scoring at least ``threshold``."""

    format: Literal[1] = 1
    chosen: str
    reason: str
    threshold: float
    n: int
    classes: int
    ranking: list[Candidate]

    @property
    def winner(self) -> Candidate:
        """Return the row of the chosen backbone."""
        return next(row for row in self.ranking if row.name == self.chosen)


PixelsFor = Callable[[PreprocessSpec, np.ndarray], np.ndarray]
"""From a preprocessing and rows of the labels to uint8 images ``(len(rows), S, S, 3)``."""


def select_backbone(
    pixels_for: PixelsFor,
    labels: np.ndarray,
    parts: np.ndarray,
    sizes: np.ndarray,
    config: SelectConfig,
    *,
    store: Path,
    lock: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Selection, Backbone]:
    """Compare the candidates on training images; return the verdict and the chosen backbone.

    Args:
        pixels_for: Gives the images of some rows, prepared as a candidate wants them.
        labels: ``(N,)`` integers.
        parts: ``(N,)`` strings; only rows of "train" are looked at.
        sizes: ``(N, 2)`` original width and height in px.
        config: Candidates and sample.
        store: Folder that keeps the weights.
        lock: Lock file of the weights.
        progress: Called with (candidates done, candidates in all).

    Raises:
        BackboneError: If a candidate cannot be had; a short list must not be chosen from silently.
        ValueError: If there is no candidate, fewer than two classes or a class with one training image.
    """
    names = list_backbones(config.mirror) if config.candidates == "auto" else sorted(set(config.candidates))
    rows = choose_rows(labels, parts, config)
    if not names:
        raise ValueError("no backbone to choose from: none ships with this installation; give select.mirror or names.")
    fit = choose_fit(config.fit, sizes[parts == "train"])
    backbones, ranking = {}, []
    with limit_threads(config.threads):
        for done, name in enumerate(names):
            began = time.monotonic()
            backbones[name] = retrieve_backbone(name, store=store, lock=lock, mirror=config.mirror)
            spec = describe_preprocess(read_input(backbones[name].folder), fit)
            ranking.append(rate_candidate(backbones[name], spec, pixels_for(spec, rows), labels[rows], config))
            logger.info(
                "candidate rated name=%s score=%.4f seconds=%.1f", name, ranking[-1].score, time.monotonic() - began
            )
            if progress is not None:
                progress(done + 1, len(names))
    selection = decide(ranking, len(rows), len(np.unique(labels[rows])))
    logger.info("selection done chosen=%s reason=%s", selection.chosen, selection.reason)
    return selection, backbones[selection.chosen]


def choose_rows(labels: np.ndarray, parts: np.ndarray, config: SelectConfig) -> np.ndarray:
    """Return the sampled training rows.

    Raises:
        ValueError: If there are not two classes with two training images each.
    """
    train = np.flatnonzero(parts == "train")
    counts = np.unique(labels[train], return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:
        raise ValueError(
            f"choosing a backbone needs two classes with two training images each; the training part has "
            f"{len(counts)} classes, the smallest with {counts.min() if len(counts) else 0} images."
        )
    # Fewer than two a class could not be cross-validated.
    return sample_rows(labels, train, max(config.max_images, 2 * len(counts)), config.seed)


def rate_candidate(
    backbone: Backbone, spec: PreprocessSpec, pixels: np.ndarray, labels: np.ndarray, config: SelectConfig
) -> Candidate:
    """Return one candidate's row: features under the target's BatchNorm statistics, cross-validated probe accuracy."""
    network, wanted = build_backbone(backbone.folder), read_input(backbone.folder)
    work = count_work(network, group_by_depth(network), spec.size_px)
    if config.adapt_images:
        chosen = np.random.default_rng(config.seed).permutation(len(pixels))[: config.adapt_images]
        adapt_batchnorm(network, pixels, wanted.normalization, rows=chosen, seed=config.seed, device=config.device)
    features = extract_features(network, pixels, wanted.normalization, device=config.device)
    right, strength = score_features(
        features, labels, strengths=STRENGTHS, folds=config.folds, repeats=config.repeats, seed=config.seed
    )
    # Repeats see the same images again: they steady the score, the interval is that of n images.
    score, n = float(right.mean()), right.shape[1]
    low, high = wilson_interval(score * n, n)
    return Candidate(
        name=backbone.name,
        score=score,
        low=float(low),
        high=float(high),
        standard_error=float(right.mean(axis=0).std(ddof=1) / np.sqrt(n)),
        gflops=round(sum(group.gflops for group in work), 4),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        licence=backbone.licence,
        sha256=backbone.sha256,
        source=backbone.source,
        strength=strength,
        preprocess=spec,
    )


def decide(ranking: Sequence[Candidate], n: int, classes: int) -> Selection:
    """Return the verdict by the one-standard-error rule: the least work among those within noise of the best.

    Source: Breiman, Friedman, Olshen and Stone 1984, "Classification and Regression Trees", section 3.4.3.
    """
    ordered = sorted(ranking, key=lambda row: (-row.score, row.gflops, row.parameters, row.name))
    best = ordered[0]
    threshold = best.score - best.standard_error
    near = [row for row in ordered if row.score >= threshold]
    # Of equal work the better score decides: such candidates differ only in what they were trained on.
    chosen = min(near, key=lambda row: (row.gflops, -row.score, row.parameters, row.name))
    reason = f"{chosen.name} scores {chosen.score:.3f} ({chosen.low:.3f} to {chosen.high:.3f}) on {n} training images"
    if chosen is best:
        reason += f", the best of {len(ordered)}" if len(ordered) > 1 else ", the only candidate"
    else:
        reason += (
            f"; {best.name} scores {best.score:.3f}, within one standard error ({best.standard_error:.3f}), "
            f"but needs {best.gflops:g} billion operations an image instead of {chosen.gflops:g}"
        )
    return Selection(chosen=chosen.name, reason=reason, threshold=threshold, n=n, classes=classes, ranking=ordered)


def save_selection(selection: Selection, backbone: Backbone, into: Path) -> None:
    """Write the folder ``into``: ``selection.json`` and a copy of the chosen backbone, replaced as a whole."""
    temporary = into.with_name(f".{into.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / BACKBONE_FOLDER).mkdir(parents=True)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(backbone.folder / file, temporary / BACKBONE_FOLDER / file)
    write_json(temporary / SELECTION_FILE, selection.model_dump(mode="json"))
    replace_folder(temporary, into)


def load_selection(folder: Path) -> tuple[Selection, Backbone]:
    """Return the verdict of a selection folder and its backbone; training verifies the weights by building them."""
    selection = Selection.model_validate(json.loads((folder / SELECTION_FILE).read_text()))
    row, weights = selection.winner, folder / BACKBONE_FOLDER
    size = (weights / WEIGHTS_FILE).stat().st_size
    return selection, Backbone(row.name, weights, row.sha256, row.licence, row.source, size)

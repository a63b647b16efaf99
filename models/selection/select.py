"""The contest of the backbones: gates, prior, probe on kept features, race.

Source: a hybrid of task-agnostic favourite and task-aware search, Renggli et al. 2022, arXiv 2010.06402.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from regraft.models.backbones.hub import Backbone, list_backbones
from regraft.models.backbones.network import read_input
from regraft.models.compute.device import limit_threads
from regraft.models.export.onnx import explain_no_export
from regraft.models.features.cache import FeatureStore
from regraft.models.selection.candidates import (
    SquareFit,
    describe_preprocess,
    explain_nobody,
    list_fits,
    profile_aspects,
    sample_rows,
)
from regraft.models.selection.decide import RESAMPLES, decide, describe_candidate, list_columns, list_rivals
from regraft.models.selection.eligibility import Entry, SelectionError, admit
from regraft.models.selection.imagenet_prior import static_prior
from regraft.models.selection.ranking import bootstrap_best, mean_ranks
from regraft.models.selection.rating import TRIAL_IMAGES, Rating, rate_backbone
from regraft.models.selection.result import Candidate, FitTrial, SelectConfig, Selection
from regraft.models.selection.successive_halving import SEATS, Lap, choose_starters, run_race
from regraft.models.statistics.design import count_groups
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import build_classifier
from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.decoding.value_range import ValueRange

logger = logging.getLogger(__name__)

PixelsFor = Callable[[PreprocessSpec, np.ndarray], np.ndarray]
"""From a preprocessing and rows of the labels to uint8 images ``(len(rows), S, S, 3)``."""

LEAST_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Ground:
    """What all candidates are compared on: rows of the labels, their classes as 0..K-1, where images come from."""

    rows: np.ndarray
    codes: np.ndarray
    pixels_for: PixelsFor
    config: SelectConfig
    store: FeatureStore
    value_range: ValueRange | None = None
    groups: np.ndarray | None = None

    def preprocess(self, backbone: Backbone, fit: SquareFit) -> PreprocessSpec:
        """Return how ``backbone`` wants these images."""
        return describe_preprocess(read_input(backbone.folder), fit, self.value_range)

    def pixels(self, backbone: Backbone, fit: SquareFit) -> np.ndarray:
        """Return the images as ``backbone`` wants them."""
        return self.pixels_for(self.preprocess(backbone, fit), self.rows)

    def narrow(self, images: int) -> "Ground":
        """Return the same with at most so many of its images, stratified."""
        kept = sample_rows(self.codes, np.arange(len(self.codes)), images, self.config.seed)
        groups = None if self.groups is None else self.groups[kept]
        return replace(self, rows=self.rows[kept], codes=self.codes[kept], groups=groups)

    def rate(self, backbone: Backbone, fit: SquareFit, adapt_images: int) -> Rating:
        """Return what ``backbone`` shows on these images."""
        return rate_backbone(
            backbone,
            self.preprocess(backbone, fit),
            self.pixels(backbone, fit),
            self.codes,
            adapt_images=adapt_images,
            folds=self.config.folds,
            seed=self.config.seed,
            store=self.store,
            device=self.config.device,
            groups=self.groups,
        )


def select_backbone(
    pixels_for: PixelsFor,
    labels: np.ndarray,
    parts: np.ndarray,
    sizes: np.ndarray,
    config: SelectConfig,
    *,
    store: Path,
    lock: Path,
    recipe: FinetuneConfig | None = None,
    record: Mapping[str, float] | None = None,
    features: Path | None = None,
    latencies: Path | None = None,
    value_range: ValueRange | None = None,
    groups: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Selection, Backbone]:
    """Compare the candidates on training images; return the verdict and the chosen backbone.

    Args:
        pixels_for: Gives the images of some rows, prepared as a candidate wants them.
        labels: ``(N,)`` integers.
        parts: ``(N,)`` strings; only rows of "train" are looked at.
        sizes: ``(N, 2)`` original width and height in px.
        config: Candidates, sample and limits.
        store: Folder that keeps the weights.
        lock: Lock file of the weights.
        recipe: How the race fine-tunes; the defaults when None.
        record: What earlier runs say of each candidate, greater is better; nothing when None.
        features: Folder of kept features; None keeps none.
        latencies: File of measured latencies; needed where ``max_latency_ms`` is set.
        value_range: Which value is white in files deeper than 8 bits; becomes part of every preprocessing.
        groups: ``(N,)`` integers, equal for images that belong together; None where each is one by itself.
        progress: Called with (pieces of work done, pieces in all).

    Raises:
        BackboneError: If a named candidate cannot be had, or the mirror gives no answer or not one backbone; a short
            list must not be chosen from silently. Others of the mirror that cannot be had are named in the verdict.
        SelectionError: If no candidate may compete, or there are fewer than two classes or a class with one training
            image.
    """
    names = list_backbones(config.mirror) if config.candidates == "auto" else sorted(set(config.candidates))
    rows = choose_rows(labels, parts, config)
    if not names:
        raise SelectionError(
            "no backbone to choose from: none ships with this installation; give select.mirror or names."
        )
    profile = profile_aspects(sizes[parts == "train"])
    codes = np.unique(labels[rows], return_inverse=True)[1]
    ground = Ground(
        rows, codes, pixels_for, config, FeatureStore(features), value_range, None if groups is None else groups[rows]
    )
    recipe = (recipe or FinetuneConfig()).model_copy(update={"device": config.device, "threads": config.threads})
    with limit_threads(config.threads):
        entries, refused = admit(names, config, store, lock, latencies)
        prior = {name: static_prior(name) for name in entries}
        known = {name: entry.accuracy for name, entry in prior.items() if entry is not None}
        favourite = max(known, key=lambda name: (known[name], -entries[name].gflops, name)) if known else None
        fit, fits = choose_fit(list_fits(config.fit, profile), entries, favourite, ground)
        ratings = rate_all(entries, fit, ground, progress)
        chances = bootstrap_best(
            {name: rating.merit(codes) for name, rating in ratings.items()}, RESAMPLES, config.seed, ground.groups
        )
        ranks = mean_ranks(list_columns(ratings, known, record or {}))
        laps, merits = race(ratings, ranks, chances, favourite, fit, ground, recipe, progress)
    ranking = [
        describe_candidate(entries[name], ratings[name], codes, ranks[name], chances[name], known.get(name),
                           (record or {}).get(name), laps)
        for name in sorted(ratings, key=lambda name: (ranks[name], entries[name].gflops, name))
    ]  # fmt: skip
    chosen, reason, unservable = settle(ranking, laps, merits, ratings, config, len(np.unique(codes)))
    refused |= unservable
    ranking = [row for row in ranking if row.name not in unservable]
    rivals = list_rivals(chosen, ranking, favourite, record or {}, merits, ratings, codes, config.seed)
    count = count_groups(ground.groups)
    selection = Selection(
        chosen=chosen,
        reason=f"{reason} on {len(rows)} training images" + ("" if count is None else f" in {count} groups"),
        n=len(rows),
        classes=int(codes.max()) + 1,
        aspects=profile.describe(),
        fits=fits,
        ranking=ranking,
        laps=[asdict(lap) for lap in laps],
        rivals=rivals,
        refused=refused,
    )
    logger.info("selection done chosen=%s reason=%s", selection.chosen, selection.reason)
    return selection, entries[chosen].backbone


def choose_rows(labels: np.ndarray, parts: np.ndarray, config: SelectConfig) -> np.ndarray:
    """Return the sampled training rows.

    Raises:
        SelectionError: If there are not two classes with two training images each.
    """
    train = np.flatnonzero(parts == "train")
    counts = np.unique(labels[train], return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:
        raise SelectionError(
            f"choosing a backbone needs two classes with two training images each; the training part has "
            f"{len(counts)} classes, the smallest with {counts.min() if len(counts) else 0} images."
        )
    # Fewer than two a class could not be cross-validated.
    return sample_rows(labels, train, max(config.max_images, 2 * len(counts)), config.seed)


def choose_fit(
    fits: Sequence[SquareFit], entries: Mapping[str, Entry], favourite: str | None, ground: Ground
) -> tuple[SquareFit, list[FitTrial]]:
    """Return the way to a square whose probe has the least log loss, and what each showed; one alone is not tried.

    The prior's favourite looks for all: the question is about the images, not about the weights.
    """
    if len(fits) == 1:
        return fits[0], []
    backbone = entries[favourite or min(entries, key=lambda name: (entries[name].gflops, name))].backbone
    # Two of every class can be cross-validated.
    small = ground.narrow(max(TRIAL_IMAGES, 2 * (int(ground.codes.max()) + 1)))
    trials = []
    for fit in fits:
        rating = small.rate(backbone, fit, adapt_images=0)
        accuracy = float(rating.hits(small.codes).mean())
        loss = min(rating.probe.losses.values())
        trials.append(FitTrial(fit=fit, loss=loss, accuracy=accuracy, n=len(small.rows)))
    best = min(trials, key=lambda trial: trial.loss)  # of equals the first: squashing loses nothing
    return best.fit, trials


def rate_all(
    entries: Mapping[str, Entry],
    fit: SquareFit,
    ground: Ground,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Rating]:
    """Return what every candidate shows on the sample."""
    ratings = {}
    for done, (name, entry) in enumerate(entries.items()):
        began = time.monotonic()
        ratings[name] = ground.rate(entry.backbone, fit, ground.config.adapt_images)
        ratings[name].frozen.release()
        logger.info("candidate rated name=%s seconds=%.1f", name, time.monotonic() - began)
        if progress is not None:
            progress(done + 1, len(entries))
    return ratings


def race(
    ratings: Mapping[str, Rating],
    ranks: Mapping[str, float],
    chances: Mapping[str, float],
    favourite: str | None,
    fit: SquareFit,
    ground: Ground,
    recipe: FinetuneConfig,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Lap], dict[str, np.ndarray]]:
    """Let those that may be the best race; nobody does where one is settled, images are few, or no race is wanted."""
    config = ground.config
    rounds = config.count_rounds(len(ground.rows))
    if not rounds or len(ratings) < 2:
        return [], {}
    leaders = sorted(ranks, key=lambda name: (ranks[name], name))[:2]
    starters = choose_starters(chances, favourite, SEATS, LEAST_CHANCE)
    starters += [name for name in leaders if name not in starters]
    if max(chances.values()) >= config.settled and set(starters[:1]) == set(leaders[:1]):
        return [], {}
    return run_race(
        ratings,
        starters,
        lambda name: ground.pixels(ratings[name].backbone, fit),
        ground.codes,
        recipe,
        budget_s=config.race_budget_s,
        rounds=rounds,
        favourite=favourite,
        settled=config.settled,
        progress=progress,
    )


def settle(
    ranking: Sequence[Candidate],
    laps: Sequence[Lap],
    merits: Mapping[str, np.ndarray],
    ratings: Mapping[str, Rating],
    config: SelectConfig,
    classes: int,
) -> tuple[str, str, dict[str, str]]:
    """Return the choice among those that can be served, why, and why others cannot be.

    This gate is the last: capturing a graph takes seconds, so only who would be chosen has to show it.

    Raises:
        SelectionError: If none can be served.
    """
    refused: dict[str, str] = {}
    while left := [row for row in ranking if row.name not in refused]:
        chosen, reason = decide(left, [lap for lap in laps if lap.name not in refused], merits, config)
        frozen, widths = ratings[chosen].frozen, ratings[chosen].features.widths
        classifier = build_classifier(frozen.network, frozen.normalization, widths, classes, torch.device("cpu"))
        objection = explain_no_export(classifier, ratings[chosen].spec.size_px)
        frozen.release()
        if objection is None:
            return chosen, reason, refused
        logger.warning("candidate cannot be served name=%s reason=%s", chosen, objection)
        refused[chosen] = objection
    raise SelectionError(explain_nobody(refused))

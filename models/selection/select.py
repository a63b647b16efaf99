"""The selection of a backbone: eligibility, prior, probe on kept features, successive halving.

Source: a hybrid of task-agnostic favourite and task-aware search, Renggli et al. 2022, arXiv 2010.06402.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from regraft.models.backbones.hub import Backbone, list_backbones
from regraft.models.compute.device import limit_threads
from regraft.models.export.onnx import explain_no_export
from regraft.models.features.cache import FeatureStore
from regraft.models.prior.imagenet_accuracy import static_prior
from regraft.models.selection.candidates import SquareFit, explain_nobody, list_fits, profile_aspects, sample_rows
from regraft.models.selection.decide import (
    RESAMPLES,
    SelectionEvidence,
    decide,
    find_favourite,
    is_enough,
    list_columns,
    list_rivals,
    rank_candidates,
)
from regraft.models.selection.eligibility import EligibleBackbone, SelectionError, admit
from regraft.models.selection.ranking import bootstrap_best, mean_ranks
from regraft.models.selection.rating import TRIAL_IMAGES, Ground, PixelsFor, Rating, rate_backbone, settle_statistics
from regraft.models.selection.result import Candidate, FitTrial, SelectConfig, Selection
from regraft.models.selection.successive_halving import (
    MOST_CANDIDATES,
    Trial,
    any_steps,
    choose_candidates,
    run_rounds,
)
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.finetune import build_classifier
from regraft.serving.decoding.value_range import ValueRange

logger = logging.getLogger(__name__)

LEAST_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class ImagesOnDemand:
    """Labelled images whose pixels are asked for, as every candidate wants them in its own way.

    Attributes:
        pixels_for: Gives the images of some rows, prepared as a candidate wants them.
        labels: ``(N,)`` integers.
        parts: ``(N,)`` strings; only rows of "train" are looked at.
        sizes: ``(N, 2)`` original width and height in px.
        value_range: Which value is white in files deeper than 8 bits; becomes part of every preprocessing.
        groups: ``(N,)`` integers, equal for images that belong together; None where each is one by itself.
    """

    pixels_for: PixelsFor
    labels: np.ndarray
    parts: np.ndarray
    sizes: np.ndarray
    value_range: ValueRange | None = None
    groups: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class SelectionPaths:
    """What the selection reads and keeps.

    Attributes:
        store: Folder that keeps the weights.
        lock: Lock file of the weights.
        features: Folder of kept features; None keeps none.
        latencies: File of measured latencies; needed where ``max_latency_ms`` is set.
    """

    store: Path
    lock: Path
    features: Path | None = None
    latencies: Path | None = None


def select_backbone(
    images: ImagesOnDemand,
    config: SelectConfig,
    paths: SelectionPaths,
    *,
    recipe: FinetuneConfig | None = None,
    record: Mapping[str, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Selection, Backbone]:
    """Compare the candidates on training images; return the verdict and the chosen backbone.

    Args:
        images: To compare on.
        config: Candidates, sample and limits.
        paths: Where weights, features and latencies are kept.
        recipe: How successive halving fine-tunes; the defaults when None.
        record: What earlier runs say of each candidate, greater is better; nothing when None.
        progress: Called with (pieces of work done, pieces in all).

    Raises:
        BackboneError: If a named candidate cannot be had, or the mirror gives no answer or not one backbone; a short
            list must not be chosen from silently. Others of the mirror that cannot be had are named in the verdict.
        SelectionError: If no candidate may compete, or there are not two classes with two training images each.
    """
    names = list_names(config)
    ground = sample_ground(images, config, FeatureStore(paths.features))
    profile = profile_aspects(images.sizes[images.parts == "train"])
    recipe = (recipe or FinetuneConfig()).model_copy(update={"device": config.device, "threads": config.threads})
    with limit_threads(config.threads):
        entries, refused = admit(names, config, paths.store, paths.lock, paths.latencies)
        fit, fits = choose_fit(list_fits(config.fit, profile), entries, ground)
        evidence = gather_evidence(entries, fit, ground, record or {}, progress)
        trials, merits = halve(evidence, fit, ground, recipe, progress)
    ranking = rank_candidates(evidence, trials)
    chosen, reason, unservable = settle(ranking, trials, merits, evidence.ratings, config, len(np.unique(ground.codes)))
    ranking = [row for row in ranking if row.name not in unservable]
    selection = Selection(
        chosen=chosen,
        reason=f"{reason} on {ground.describe()}",
        n=len(ground.rows),
        classes=int(ground.codes.max()) + 1,
        aspects=profile.describe(),
        fits=fits,
        ranking=ranking,
        trials=[asdict(trial) for trial in trials],
        rivals=list_rivals(chosen, ranking, evidence, merits if any_steps(trials) else {}, config.seed),
        refused=refused | unservable,
    )
    logger.info("selection done chosen=%s reason=%s", selection.chosen, selection.reason)
    return selection, entries[chosen].backbone


def list_names(config: SelectConfig) -> list[str]:
    """Return the candidates that are asked for.

    Raises:
        BackboneError: If the mirror gives no answer.
        SelectionError: If there is none.
    """
    names = list_backbones(config.mirror) if config.candidates == "auto" else sorted(set(config.candidates))
    if not names:
        raise SelectionError(
            "no backbone to choose from: none ships with this installation; give select.mirror or names."
        )
    return names


def sample_ground(images: ImagesOnDemand, config: SelectConfig, store: FeatureStore) -> Ground:
    """Return what all candidates are compared on: a sample of the training images."""
    rows = sample_training_rows(images.labels, images.parts, config)
    codes = np.unique(images.labels[rows], return_inverse=True)[1]
    groups = None if images.groups is None else images.groups[rows]
    return Ground(rows, codes, images.pixels_for, config, store, images.value_range, groups)


def gather_evidence(
    entries: Mapping[str, EligibleBackbone],
    fit: SquareFit,
    ground: Ground,
    record: Mapping[str, float],
    progress: Callable[[int, int], None] | None,
) -> SelectionEvidence:
    """Return what prior, record and a probe of every candidate say."""
    ratings = rate_all(entries, fit, ground, progress)
    merits = {name: rating.merit(ground.codes) for name, rating in ratings.items()}
    chances = bootstrap_best(merits, RESAMPLES, ground.config.seed, ground.groups)
    prior = list_prior(entries)
    ranks = mean_ranks(list_columns(ratings, prior, record))
    return SelectionEvidence(entries, ground.codes, ratings, ranks, chances, prior, record)


def list_prior(names: Iterable[str]) -> dict[str, float]:
    """Return the public ImageNet accuracy of those whose it is known."""
    known = {name: static_prior(name) for name in names}
    return {name: prior.accuracy for name, prior in known.items() if prior is not None}


def sample_training_rows(labels: np.ndarray, parts: np.ndarray, config: SelectConfig) -> np.ndarray:
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
    fits: Sequence[SquareFit], entries: Mapping[str, EligibleBackbone], ground: Ground
) -> tuple[SquareFit, list[FitTrial]]:
    """Return the way to a square whose probe has the least log loss, and what each showed; one alone is not tried.

    The prior's favourite looks for all: the question is about the images, not about the weights.
    """
    if len(fits) == 1:
        return fits[0], []
    favourite = find_favourite(list_prior(entries), entries)
    backbone = entries[favourite or min(entries, key=lambda name: (entries[name].gflops, name))].backbone
    # Two of every class can be cross-validated.
    small = ground.narrow(max(TRIAL_IMAGES, 2 * (int(ground.codes.max()) + 1)))
    trials = []
    for fit in fits:
        rating = rate_backbone(backbone, fit, small, adapt_images=0)
        accuracy = float(rating.hits(small.codes).mean())
        loss = min(rating.probe.losses.values())
        trials.append(FitTrial(fit=fit, loss=loss, accuracy=accuracy, n=len(small.rows)))
    best = min(trials, key=lambda trial: trial.loss)  # of equals the first: squashing loses nothing
    return best.fit, trials


def rate_all(
    entries: Mapping[str, EligibleBackbone],
    fit: SquareFit,
    ground: Ground,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Rating]:
    """Return what every candidate shows on the sample."""
    ratings: dict[str, Rating] = {}
    for done, (name, entry) in enumerate(entries.items()):
        began = time.monotonic()
        settled = settle_statistics(rating.lead for rating in ratings.values())
        adapt_images = 0 if settled else ground.config.adapt_images
        ratings[name] = rate_backbone(entry.backbone, fit, ground, adapt_images)
        ratings[name].frozen.release()
        logger.info("candidate rated name=%s seconds=%.1f", name, time.monotonic() - began)
        if progress is not None:
            progress(done + 1, len(entries))
    return ratings


def halve(
    evidence: SelectionEvidence,
    fit: SquareFit,
    ground: Ground,
    recipe: FinetuneConfig,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Trial], dict[str, np.ndarray]]:
    """Fine-tune those that may be the best, unless one is settled or enough, images are few, or it is not wanted."""
    ranks, chances = evidence.ranks, evidence.chances
    if not ground.config.count_rounds(len(ground.rows)) or len(evidence.ratings) < 2:
        return [], {}
    if is_enough(evidence, ground.config.enough):
        return [], {}
    leaders = sorted(ranks, key=lambda name: (ranks[name], name))[:2]
    candidates = choose_candidates(chances, evidence.favourite, MOST_CANDIDATES, LEAST_CHANCE)
    candidates += [name for name in leaders if name not in candidates]
    if max(chances.values()) >= ground.config.settled and set(candidates[:1]) == set(leaders[:1]):
        return [], {}
    return run_rounds(evidence.ratings, candidates, ground, fit, recipe, evidence.favourite, progress)


def settle(
    ranking: Sequence[Candidate],
    trials: Sequence[Trial],
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
        chosen, reason = decide(left, [trial for trial in trials if trial.name not in refused], merits, config)
        frozen, widths = ratings[chosen].frozen, ratings[chosen].features.widths
        classifier = build_classifier(frozen.network, frozen.normalization, widths, classes, torch.device("cpu"))
        objection = explain_no_export(classifier, ratings[chosen].spec.size_px)
        frozen.release()
        if objection is None:
            return chosen, reason, refused
        logger.warning("candidate cannot be served name=%s reason=%s", chosen, objection)
        refused[chosen] = objection
    raise SelectionError(explain_nobody(refused))

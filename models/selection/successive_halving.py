"""Successive halving: those that may be the best are fine-tuned on a growing budget, the worse half drops out.

Every candidate predicts each sampled image once, from a network that did not see it. Source: successive halving,
Jamieson and Talwalkar 2016, arXiv 1502.07943.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from regraft.models.compute.device import choose_device, deterministic_kernels
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.linear_probe import fit_probe, make_folds
from regraft.models.heads.data import TrainingData
from regraft.models.selection.candidates import SquareFit
from regraft.models.selection.ranking import bootstrap_best
from regraft.models.selection.rating import Ground, Rating, likelihoods, weigh_lead
from regraft.models.statistics.merits import rate_hits
from regraft.models.training.batches import score_images
from regraft.models.training.config import FinetuneConfig, make_plan
from regraft.models.training.finetune import build_classifier, train_from
from regraft.models.training.loop import copy_state
from regraft.models.training.step import TrainingDiverged

logger = logging.getLogger(__name__)

MOST_CANDIDATES = 4
"""Candidates, at most, that the last choice is between; in successive halving the prior's favourite may be one more."""
HALVING = 3
FOLDS = 3
TRIAL_GIB = 0.5
"""Disk that kept activations may take in a trial, below the temporary folder."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate in one round: fine-tuned on every fold.

    Attributes:
        name: The candidate.
        round: From 1; each has three times the budget of the one before.
        budget_s: Counted seconds on the nominal machine, over all folds.
        accuracy: Out of fold, of the probe, or of the fine-tuned network where that leads; 0-1.
        tuned: Of the fine-tuned networks alone; of the probe where the budget affords no step.
        chance: How likely the candidate is the best of this round, 0-1.
        steps: That it was trained for on each fold; 0 where the budget affords none.
    """

    name: str
    round: int
    budget_s: float
    accuracy: float
    tuned: float
    chance: float
    steps: int


def any_steps(trials: Sequence[Trial]) -> bool:
    """Say whether anything was fine-tuned in them."""
    return any(trial.steps for trial in trials)


def choose_candidates(chances: Mapping[str, float], favourite: str | None, most: int, least_chance: float) -> list[str]:
    """Return the first round, the likeliest first: those above ``least_chance``, three at least, and the favourite."""
    ordered = sorted(chances, key=lambda name: (-chances[name], name))
    candidates = [name for place, name in enumerate(ordered) if place < 3 or chances[name] > least_chance][:most]
    if favourite is not None and favourite not in candidates:
        candidates.append(favourite)
    return candidates


def run_rounds(
    ratings: Mapping[str, Rating],
    candidates: Sequence[str],
    ground: Ground,
    fit: SquareFit,
    recipe: FinetuneConfig,
    favourite: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Trial], dict[str, np.ndarray]]:
    """Halve the candidates round by round; return all trials and what each image says for who is in, ``(N,)`` in 0-1.

    Ends early when one candidate is the best with the probability that settles it.

    Args:
        ratings: Of all candidates.
        candidates: Those of the first round.
        ground: The sampled images, rounds and budgets.
        fit: Their way to a square.
        recipe: Of fine-tuning.
        favourite: In every round whatever happens.
        progress: Called with (candidates fine-tuned, at most).
    """
    remaining, trials, merits, done = list(candidates), [], {}, 0
    config, labels = ground.config, ground.codes
    rounds = config.count_rounds(len(labels))
    whole = count_trials(len(remaining), rounds)
    for number in range(1, rounds + 1):
        if len(remaining) < 2:
            break
        budget = config.halving_budget_s * HALVING ** (number - 1)
        found = {}
        for name in remaining:
            pixels = ground.pixels(ratings[name].backbone, fit)
            found[name] = run_trial(ratings[name], pixels, labels, recipe, budget)
            done += 1
            if progress is not None:
                progress(min(done, whole), whole)
        merits |= {name: likelihoods(logits, labels) for name, (logits, _, _) in found.items()}
        chances = bootstrap_best({name: merits[name] for name in remaining}, groups=ground.groups)
        for name, (logits, tuned, steps) in found.items():
            accuracy = float(np.mean(rate_hits(logits, labels)))
            trials.append(Trial(name, number, budget, accuracy, tuned, chances[name], steps))
        remaining.sort(key=lambda name: (-chances[name], name))
        if max(chances.values()) >= config.settled:
            break
        kept = remaining[: max(1, math.ceil(len(remaining) / 2))]
        remaining = kept + [name for name in remaining if name == favourite and name not in kept]
    return trials, merits


def count_trials(candidates: int, rounds: int) -> int:
    """Return how many candidates are fine-tuned at most, the favourite apart."""
    return max(sum(remaining for _, remaining in list_rounds(candidates, rounds)), 1)


def list_rounds(candidates: int, rounds: int) -> list[tuple[int, int]]:
    """Return for each round what a candidate's budget is multiplied by, and how many are in it at most."""
    planned = []
    for number in range(rounds):
        if candidates < 2:
            break
        planned.append((HALVING**number, candidates))
        candidates = math.ceil(candidates / 2)
    return planned


def run_trial(
    rating: Rating, pixels: np.ndarray, labels: np.ndarray, config: FinetuneConfig, budget_s: float
) -> tuple[np.ndarray, float, int]:
    """Return out-of-fold logits ``(N, K)`` of the probe, or of fine-tuned networks if they lead; their accuracy; steps.

    Where the first fold's plan affords no step, the others' would not either: the probe stands. Fine-tuned weights are
    those after the last epoch: the best epoch on the held-out fold would flatter itself.
    """
    classes = int(labels.max()) + 1
    splits = make_folds(labels, FOLDS, config.seed, rating.groups)
    tuned = np.zeros((len(labels), classes), dtype=np.float32)
    share = config.model_copy(
        update={"budget_s": budget_s / max(1, len(splits)), "activations_gib": min(config.activations_gib, TRIAL_GIB)}
    )
    steps, probe = 0, rating.probe.logits
    for train, held in splits:
        found, steps = tune_fold(rating, pixels, labels, train, held, share)
        if not steps:
            tuned = probe
            break
        tuned[held] = found
    rating.frozen.release()
    better = tuned if steps and leads(tuned, probe, labels, rating.groups) else probe
    return better, float(np.mean(rate_hits(tuned, labels))), steps


def leads(tuned: np.ndarray, probe: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> bool:
    """Say whether fine-tuning is ahead of the probe by more than one standard error, image by image or by group.

    As in the final training, where the simpler head is kept in doubt: with few images one fine-tuned network in two is
    ahead by chance, and the best of several such chances would be chosen.
    """
    lead = likelihoods(tuned, labels) - likelihoods(probe, labels)
    return bool(lead.mean() > lead.std(ddof=1) / np.sqrt(len(lead) / weigh_lead(lead, groups).effect))


def tune_fold(
    rating: Rating,
    pixels: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    held: np.ndarray,
    config: FinetuneConfig,
) -> tuple[np.ndarray, int]:
    """Return the logits ``(len(held), K)`` of a network fine-tuned on ``train``, and the steps its plan affords.

    Without a step there are no logits. The rating is left as it was.
    """
    features, device = rating.features, choose_device(config.device)
    probe = fit_probe(
        features.values[train],
        labels[train],
        classes=int(labels.max()) + 1,
        c=rating.probe.c,
        widths=features.widths,
    )
    classifier = build_classifier(
        rating.frozen.network, rating.frozen.normalization, features.widths, len(probe.bias), device
    )
    data = TrainingData(pixels, labels.astype(np.int64), train, held)
    plan = make_plan(classifier, data, pixels.shape[1], config, device)
    if not plan.steps:
        return np.empty((0, len(probe.bias)), np.float32), 0
    before = copy_state(classifier)
    classifier.load_probe(probe)
    with tempfile.TemporaryDirectory() as folder, deterministic_kernels(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        resume = ResumeFolder(Path(folder), "trial")
        try:
            run = train_from(classifier, data, plan, config, resume, None)
            logger.info("trial name=%s steps=%d", rating.backbone.name, run.step)
        except TrainingDiverged as error:  # one candidate that does not train must not end the comparison of all
            logger.warning("trial name=%s diverged, its probe stands: %s", rating.backbone.name, error)
            classifier.load_state_dict(before)
            classifier.load_probe(probe)
        logits = score_images(classifier, data, held, plan.batch_size)
    classifier.load_state_dict(before)
    for parameter in classifier.parameters():
        parameter.requires_grad_(True)
    classifier.eval()
    return logits, plan.steps

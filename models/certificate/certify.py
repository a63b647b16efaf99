"""The transfer certificate: did the pretrained weights help, against the same network without them and against none.

Everything is repeated on a few draws of labelled images with equal trials and counted budgets; the draws are in
``models/statistics/draws.py``, the conditions in ``models/certificate/baselines.py``, the interval in
``models/certificate/paired_difference.py``, the learning curves in ``models/certificate/learning_curve.py``, the
verdict in ``models/certificate/verdict.py``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field

from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.network import build_architecture, read_config
from regraft.models.certificate.baselines import (
    Material,
    Outcome,
    draw_material,
    open_neighbours,
    open_scratch,
    open_transfer,
    run_network,
)
from regraft.models.certificate.learning_curve import find_crossing, fit_curve, value_labels
from regraft.models.certificate.paired_difference import measure_difference, say_images
from regraft.models.certificate.verdict import CONDITIONS, Certificate, Condition, decide_transfer
from regraft.models.compute.device import DeviceName, deterministic_kernels, is_convolutional, limit_threads
from regraft.models.statistics.design import count_groups
from regraft.models.statistics.draws import KNOWN_SHARE, list_sizes, order_rows
from regraft.models.statistics.merits import weigh_total
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.data import LabelledImages
from regraft.models.training.optimizer import LoopConfig
from regraft.serving.decoding.preprocess import PreprocessSpec

logger = logging.getLogger(__name__)

FEWEST = 4
"""Labelled images of a class below which nothing is certified, and test images likewise."""
FEW_STEPS = 200
"""Steps from scratch below which the certificate says that they are few."""
MORE_LABELS = 100


class CertifyConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the certificate is measured: images, draws, budgets, and the gain that counts."""

    draws: int = Field(3, ge=2)
    """Times that labelled images are drawn, each with its own order and its own random network."""
    max_images: int = Field(200, ge=8)
    """Labelled images of a draw at most; never more than four in five of those known."""
    max_test: int = Field(200, ge=8)
    """Test images at most; all draws share them."""
    size_px: int = Field(96, ge=16)
    """Side at which convolutional networks are compared, where they want more; the same for all conditions.
    Transformers keep theirs."""
    trial_s: float = Field(2.0, gt=0)
    """Seconds on the nominal machine, counted, that the pretrained weights are trained for on each draw."""
    scratch_factor: float = Field(3.0, ge=1)
    """Times as long that training from scratch gets: it needs three to five times the steps."""
    max_epochs: int = Field(12, ge=1)
    """Passes over a draw at most, however small the network; from scratch as many times more."""
    scratch_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of all layers from scratch."""
    sizes: tuple[float, ...] = Field((0.25, 0.5, 1.0), min_length=1)
    """Shares of a draw at which the learning curve is measured, ascending; budgets shrink alike."""
    smallest_gain: float = Field(0.01, ge=0, le=1)
    """Difference in balanced accuracy that counts; the interval must lie beyond it."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Two-sided coverage of the intervals."""
    loop: LoopConfig = LoopConfig()
    """Rates, regularisation and augmentation of the training trials."""
    seed: int = Field(0, ge=0)
    """Of draws, random networks, order and augmentation."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""


def choose_side(backbone: Backbone, spec: PreprocessSpec, config: CertifyConfig) -> PreprocessSpec:
    """Return the preprocessing of all conditions: a convolutional network takes smaller images too."""
    network = build_architecture(read_config(backbone.folder)).eval()
    if spec.size_px <= config.size_px or not is_convolutional(network):
        return spec
    try:  # some are tied to their size all the same, by attention biases for instance
        with torch.inference_mode():
            network(torch.zeros(1, 3, config.size_px, config.size_px))
    except (RuntimeError, AssertionError, ValueError):
        return spec
    return spec.model_copy(update={"size_px": config.size_px})


def certify(
    backbone: Backbone,
    images: LabelledImages,
    config: CertifyConfig,
    adapt_images: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Compare the backbone's weights with none on the same test images; equal arguments give an equal certificate.

    Args:
        backbone: The weights that were selected.
        images: Of the side that ``choose_side`` says. Labels are drawn from "train" and "validation", "test" judges.
            Where images come in groups, labels are drawn by group, and other test images are those of other groups.
        config: Draws, budgets and threshold.
        adapt_images: Known images, at most, on which the pretrained BatchNorm statistics are re-estimated.
        progress: Called with (trainings done, trainings in all).
    """
    material, names = draw_material(images, config.max_images, config.max_test, config.seed), images.names
    n = min(config.max_images, int(KNOWN_SHARE * len(material.known)))
    facts = {
        "backbone": backbone.name, "classes": len(names), "n": n, "images": len(material.test),
        "draws": config.draws, "size_px": int(images.pixels.shape[1]), "threshold": config.smallest_gain,
        "groups": count_groups(material.judges),
    }  # fmt: skip
    obstacle = find_obstacle(material, n, names)
    if obstacle is not None:
        return Certificate(decision="no evidence", reason=f"nothing was compared: {obstacle}", **facts)
    with limit_threads(config.threads), deterministic_kernels(), torch.random.fork_rng():
        outcomes = run_conditions(backbone, material, n, config, adapt_images, progress)
    certificate = write_certificate(outcomes, material.answers, config, facts, material.judges)
    logger.info("certify done decision=%s reason=%s", certificate.decision, certificate.reason)
    return certificate


def find_obstacle(material: Material, n: int, names: Sequence[str]) -> str | None:
    """Return why these images cannot carry a certificate, or None."""
    counts = np.bincount(material.labels[material.known], minlength=len(names))
    if counts.min() < FEWEST:
        return f"class {names[int(counts.argmin())]!r} has {counts.min()} known images, {FEWEST} are needed"
    if n < 2 * len(names):
        return f"a draw of {n} labelled images cannot hold two of each of {len(names)} classes; raise max_images"
    if len(material.test) < FEWEST:
        return f"there are {len(material.test)} test images, {FEWEST} are needed"
    return None


def run_conditions(
    backbone: Backbone,
    material: Material,
    n: int,
    config: CertifyConfig,
    adapt_images: int,
    progress: Callable[[int, int], None] | None,
) -> dict[tuple[str, int], list[Outcome]]:
    """Return the outcomes of every condition at every size, one for each draw."""
    sizes = list_sizes(n, material.classes, config.sizes)
    outcomes: dict[tuple[str, int], list[Outcome]] = {
        (condition, size): [] for condition in CONDITIONS for size in sizes
    }
    neighbours = open_neighbours(material)
    transfer = open_transfer(backbone, material, adapt_images, write_recipe("transfer", n, n, 0, config))
    done, whole = 0, config.draws * len(sizes) * 2
    for draw in range(config.draws):
        rows = order_rows(material.labels, material.known, [config.seed, 3, draw], material.groups)[:n]
        scratch = open_scratch(backbone, material, rows, draw, write_recipe("scratch", n, n, draw, config))
        for size in sizes:
            outcomes["neighbours", size].append(neighbours(rows[:size]))
            for condition, network in (("transfer", transfer), ("scratch", scratch)):
                recipe = write_recipe(condition, size, n, draw, config)
                outcomes[condition, size].append(run_network(network, material, rows[:size], recipe))
                done += 1
                if progress is not None:
                    progress(done, whole)
    return outcomes


def write_recipe(condition: str, size: int, n: int, draw: int, config: CertifyConfig) -> FinetuneConfig:
    """Return the recipe of a condition's training trial: from scratch longer, at one rate, and all layers."""
    factor, loop, least = 1.0, config.loop, 3
    if condition == "scratch":
        factor, least = config.scratch_factor, 1
        loop = loop.model_copy(update={"backbone_lr": config.scratch_lr, "layer_decay": 1.0})
    budget_s = config.trial_s * factor * size / n
    return FinetuneConfig(
        budget_s=budget_s,
        image_s=budget_s,
        max_epochs=round(config.max_epochs * factor),
        min_epochs=least,
        views=0,
        loop=loop,
        seed=config.seed * 1000 + draw,
        device=config.device,
        threads=config.threads,
    )


def write_certificate(
    outcomes: Mapping[tuple[str, int], Sequence[Outcome]],
    answers: np.ndarray,
    config: CertifyConfig,
    facts: Mapping[str, Any],
    groups: np.ndarray | None = None,
) -> Certificate:
    """Return the certificate that the outcomes of all conditions amount to; ``groups`` are those of the test images."""
    n = facts["n"]
    merits = {key: np.stack([outcome.merits for outcome in found]) for key, found in outcomes.items()}
    measure = partial(measure_difference, strata=answers, confidence=config.confidence, groups=groups)
    gain = measure(merits["transfer", n], merits["scratch", n])
    floor = measure(merits["transfer", n], merits["neighbours", n])
    decided = decide_transfer(gain, floor, config.smallest_gain)
    conditions = [
        describe_condition(name, size, found, answers, config, n, groups) for (name, size), found in outcomes.items()
    ]
    return Certificate(
        **facts,
        **asdict(decided),
        gain=gain,
        floor=floor,
        conditions=conditions,
        notes=list_notes(config, facts, outcomes["scratch", n]),
        **describe_curves(conditions, gain.low > 0, config, len(answers)),
    )


def describe_condition(
    condition: str,
    size: int,
    found: Sequence[Outcome],
    answers: np.ndarray,
    config: CertifyConfig,
    n: int,
    groups: np.ndarray | None,
) -> Condition:
    """Return the figures of one condition at one size."""
    merits = np.stack([outcome.merits for outcome in found])
    level = measure_difference(merits, np.zeros_like(merits), answers, config.confidence, groups=groups)
    return Condition(
        condition=condition,
        n=size,
        accuracy=level.value,
        low=max(0.0, level.low),
        high=level.high,
        by_draw=[weigh_total(row, answers) for row in merits],
        taken=[outcome.kind for outcome in found],
        budget_s=0.0 if condition == "neighbours" else write_recipe(condition, size, n, 0, config).budget_s,
        steps=[outcome.steps for outcome in found],
        frozen_groups=found[0].frozen_groups,
    )


def describe_curves(conditions: Sequence[Condition], ahead: bool, config: CertifyConfig, images: int) -> dict[str, Any]:
    """Return fits, crossing and the worth of more labels; nothing where fewer than three sizes were measured."""
    sizes = sorted({condition.n for condition in conditions})
    if len(sizes) < 3:
        return {}
    rows = [row for row in conditions if (row.condition, row.n) == ("scratch", sizes[-1])]
    fits, steps = {}, max(max(row.steps) for row in rows)
    for name in ("transfer", "scratch"):
        rows = sorted(
            (condition for condition in conditions if condition.condition == name), key=lambda condition: condition.n
        )
        fits[name] = fit_curve(np.array(sizes), 1 - np.array([condition.by_draw for condition in rows]).T, images)
    return {
        "fits": {name: asdict(fit) for name, fit in fits.items()},
        "crossing": asdict(find_crossing(fits["transfer"], fits["scratch"], ahead=ahead, steps=steps)),
        "next_labels": asdict(value_labels(fits["transfer"], MORE_LABELS, config.confidence)),
    }


def list_notes(config: CertifyConfig, facts: Mapping[str, Any], scratch: Sequence[Outcome]) -> list[str]:
    """Return how it was measured, in sentences; ``scratch`` is that condition on each draw."""
    steps = [outcome.steps for outcome in scratch]
    notes = [
        f"{config.draws} draws of {facts['n']} labelled images, {say_images(facts['images'], facts.get('groups'))}, "
        f"{facts['size_px']} px; "
        "from scratch every draw has a random network of its own.",
        "Both networks have two trials on each draw, a linear probe and training; images of the draw that neither "
        "learned from decide between them.",
        f"Training may take {config.trial_s:g} nominal seconds a draw with the pretrained weights and "
        f"{config.trial_s * config.scratch_factor:g} from scratch, which needs longer; {config.max_epochs} and "
        f"{round(config.max_epochs * config.scratch_factor)} passes at most. Smaller draws have proportionally less.",
    ]
    if facts.get("groups") is not None:
        notes.append(
            "Images come in groups: labels are drawn group by group, and the intervals are those of other groups."
        )
    if max(steps) < FEW_STEPS:
        notes.append(
            f"From scratch that is {max(steps)} steps, few for a network: with more time (certify.trial_s, "
            "certify.max_epochs) scratch may come nearer."
        )
    if frozen := max(outcome.frozen_groups for outcome in scratch):
        notes.append(
            f"The budget did not reach for all layers from scratch: {frozen} depth groups stayed random. Scratch is "
            "held back by that; raise certify.trial_s before you rely on this."
        )
    return notes

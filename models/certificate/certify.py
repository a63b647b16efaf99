"""The transfer certificate: did the pretrained weights help, against the same network without them and against none.

Everything is repeated on a few draws of labelled images with equal trials and counted budgets; the draws are in
``models/statistics/draws.py``, the conditions in ``models/certificate/baselines.py``, the interval in
``models/certificate/paired_difference.py``, the learning curves in ``models/certificate/learning_curve.py``, what
all of it amounts to in ``models/certificate/findings.py`` and ``models/certificate/verdict.py``.
"""

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

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
from regraft.models.certificate.config import FEWEST_DRAWS, CertifyConfig, write_recipe
from regraft.models.certificate.findings import SURE, compare_conditions, write_certificate
from regraft.models.certificate.verdict import Certificate, decide_transfer
from regraft.models.compute.device import deterministic_kernels, is_convolutional, limit_threads
from regraft.models.heads.data import LabelledImages
from regraft.models.statistics.design import count_groups
from regraft.models.statistics.draws import KNOWN_SHARE, list_sizes, order_rows
from regraft.models.statistics.merits import weigh_total
from regraft.serving.decoding.preprocess import PreprocessSpec

logger = logging.getLogger(__name__)

FEWEST = 4
"""Labelled images of a class below which nothing is certified, and test images likewise."""


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
        progress: Called with (trainings done, trainings in all); at the end those that were not needed count as done.
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
    """Return the outcomes of the conditions at every size, one for each draw.

    The first draws come at full size. Where they settle the verdict, or show that no further one could, scratch is not
    run any further.
    """
    sizes, outcomes = list_sizes(n, material.classes, config.sizes), dict[tuple[str, int], list[Outcome]]()
    neighbours = open_neighbours(material)
    transfer = open_transfer(backbone, material, adapt_images, write_recipe("transfer", n, n, 0, config))
    steps = itertools.count(1)

    def run_draw(draw: int, wanted: Sequence[int], *, with_scratch: bool) -> None:
        rows, networks = order_rows(material.labels, material.known, [config.seed, 3, draw], material.groups)[:n], {}
        if with_scratch:
            recipe = write_recipe("scratch", n, n, draw, config)
            networks["scratch"] = open_scratch(backbone, material, rows, draw, recipe)
        for size in wanted:
            outcomes.setdefault(("neighbours", size), []).append(neighbours(rows[:size]))
            for condition, network in {"transfer": transfer, **networks}.items():
                recipe = write_recipe(condition, size, n, draw, config)
                found = run_network(network, material, rows[:size], recipe)
                outcomes.setdefault((condition, size), []).append(found)
                if progress is not None:
                    progress(next(steps), whole)

    whole = config.draws * len(sizes) * 2
    for draw in range(FEWEST_DRAWS):
        run_draw(draw, [n], with_scratch=True)
    done = is_settled(outcomes, material, n, config) or is_futile(outcomes, material, n, config)
    for draw in range(config.draws):
        run_draw(draw, sizes[:-1] if draw < FEWEST_DRAWS else sizes, with_scratch=not done)
    if progress is not None:
        progress(whole, whole)
    return outcomes


def is_settled(
    outcomes: Mapping[tuple[str, int], Sequence[Outcome]], material: Material, n: int, config: CertifyConfig
) -> bool:
    """Say whether the draws so far show help that further ones would hardly take back.

    Harm is not called early: it keeps a version from being promoted, and random networks met it too often.
    """
    gain, floor = compare_conditions(outcomes, n, material.answers, max(SURE, config.confidence), material.judges)
    return decide_transfer(gain, floor, config.smallest_gain).decision == "helps"


def is_futile(
    outcomes: Mapping[tuple[str, int], Sequence[Outcome]], material: Material, n: int, config: CertifyConfig
) -> bool:
    """Say whether the verdict would stay open even if every further draw were as the best, or as the worst, so far.

    That is so where the test images are too few, not the draws. Stopping for it can make no verdict of help or harm.
    """

    def stays_open(found: Mapping[tuple[str, int], Sequence[Outcome]]) -> bool:
        gain, floor = compare_conditions(found, n, material.answers, config.confidence, material.judges)
        return decide_transfer(gain, floor, config.smallest_gain).decision == "no evidence"

    pairs = zip(outcomes["transfer", n], outcomes["scratch", n], strict=True)
    leads = [weigh_total(a.merits.astype(float) - b.merits, material.answers) for a, b in pairs]
    repeated = (
        {key: [*found, *[found[draw]] * (config.draws - len(found))] for key, found in outcomes.items()}
        for draw in (int(np.argmax(leads)), int(np.argmin(leads)))
    )
    return stays_open(outcomes) and all(stays_open(found) for found in repeated)

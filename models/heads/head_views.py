"""Whether the linear head is fitted on views of its images: decided on images it was not fitted on, and on their views.

Two sorts: changes of acquisition, which never change a label, and mirrorings, which may; those are tried first.
"""

import math
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, Field

from regraft.models.classifier.checkpoint import HeadFigures
from regraft.models.features.linear_probe import Probe, sum_log_loss
from regraft.models.features.view_probe import ViewTrial
from regraft.models.heads.imbalance import Imbalance
from regraft.models.statistics.merits import rate_hits, weigh_total
from regraft.models.views.view import View, limit_light, plan_views

GIVEN_AWAY = 0.003
"""Of the balanced accuracy on images as they are that views may cost."""
CHANCE = 1.645
"""Standard errors of a difference that chance exceeds on one side in one case of twenty."""
MIRRORED = 128
"""Images that mirrorings are tried on."""
SAFE_LOSS = 0.25
"""Of a class's rightly answered images that may be lost when all are mirrored; of fewer than four none may be."""


class HeadConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What the linear head is fitted on beside the images as they are."""

    views: int = Field(8, ge=0)
    """Views of each image, at most: as another lamp, lens, sensor or pose would have given it; 0 for none."""
    passes: int = Field(1500, ge=1)
    """Passes through the backbone that all views may cost; of more images than that there is one view each."""
    strength: float = Field(1.0, gt=0, le=1)
    """How far the changes go; at 1 down to a third of the light, and to a blur of a hundredth of the side."""
    imbalance: Imbalance = "auto"
    """What is made of classes of different size: "logit_adjustment" answers as if all were equally frequent, "plain" as
    they are, "auto" the first where held-out training images speak for it."""
    mirror: bool = True
    """Whether images may be mirrored too, where held-out images show that no class is taken for another then."""


def count_head_views(config: HeadConfig, images: int) -> int:
    """Return the views of each of ``images`` that the passes afford: one at least, or none if none are wanted."""
    return max(1, min(config.views, config.passes // max(1, images))) if config.views else 0


def plan_head_views(
    config: HeadConfig, pixels: np.ndarray, rows: np.ndarray, horizontal: bool, vertical: bool
) -> list[View]:
    """Return the views that may be fitted on: as many as the passes afford, one at least, or none if none are wanted.

    Args:
        config: Bounds.
        pixels: uint8 ``(N, S, S, 3)``.
        rows: Of the images that the head will be fitted on.
        horizontal: Whether half of them may be mirrored left to right.
        vertical: Likewise top to bottom.
    """
    if not config.views:
        return []
    count = count_head_views(config, len(rows))
    like = View(0, config.strength, limit_light(pixels, rows), horizontal / 2, vertical / 2)
    return plan_views(count, like)


def try_mirrors(
    probe: Probe,
    embed: Callable[[np.ndarray, View], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    clean: np.ndarray,
) -> tuple[bool, bool]:
    """Return whether images mirrored left to right, and top to bottom, are still answered as what they are.

    A mirroring that turns one class into another is seen here: that class's answers change with it.

    Args:
        probe: Fitted on other images.
        embed: From rows and a view to features.
        images: Rows that the probe was not fitted on.
        labels: Of these, ``(M,)`` integers.
        clean: Their features as they are, ``(M, D)``.
    """
    before = probe.score(clean).argmax(axis=1) == labels
    safe = []
    for view in (View(0, 0.0, horizontal=1.0), View(0, 0.0, vertical=1.0)):
        after = probe.score(embed(images, view)).argmax(axis=1) == labels
        lost = [
            (
                int(np.sum(before[labels == label]) - np.sum(after[labels == label])),
                int(np.sum(before[labels == label])),
            )
            for label in np.unique(labels)
        ]
        safe.append(all(gone <= SAFE_LOSS * right for gone, right in lost))
    return safe[0], safe[1]


def judge_views(trial: ViewTrial, labels: np.ndarray, views: list[View]) -> HeadFigures:
    """Return whether the head is fitted on ``views``: more is right under shifts, and next to nothing lost without.

    Next to nothing: at most ``GIVEN_AWAY`` of the balanced accuracy, or a loss that chance would make in one case of
    twenty, or a log loss that is no higher; one image of fifty is more than the first and says nothing.
    """

    def rate(logits: np.ndarray) -> float:
        return weigh_total(rate_hits(logits, labels), labels)

    clean, clean_plain = rate(trial.viewed[0]), rate(trial.plain[0])
    turned = rate_hits(trial.viewed[0], labels).astype(float) - rate_hits(trial.plain[0], labels)
    known, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_chance = CHANCE * math.sqrt(float(np.sum((turned / (len(known) * counts[places])) ** 2)))
    shifted = float(np.mean([rate(each) for each in trial.viewed[1:]]))
    shifted_plain = float(np.mean([rate(each) for each in trial.plain[1:]]))
    losses = [sum_log_loss(each[0].astype(np.float64), labels) for each in (trial.viewed, trial.plain)]
    spared = clean >= clean_plain - max(GIVEN_AWAY, by_chance) or losses[0] <= losses[1]
    kept = shifted > shifted_plain and spared
    words = (
        f"out of fold, on changed copies of the images a head fitted on {len(views)} views of each answers "
        f"{100 * shifted:.1f} % rightly and the plain head {100 * shifted_plain:.1f} %; on the images as they are "
        f"{100 * clean:.1f} % and {100 * clean_plain:.1f} %"
    )
    mirrored = {"horizontal": views[0].horizontal > 0, "vertical": views[0].vertical > 0} if kept else {}
    best = (clean, shifted) if kept else (clean_plain, shifted_plain)
    return HeadFigures(
        views=len(views) if kept else 0,
        **mirrored,
        clean=best[0],
        clean_plain=clean_plain,
        shifted=best[1],
        shifted_plain=shifted_plain,
        reason=f"{words}; the {'views are' if kept else 'plain head is'} kept",
    )

"""Which weights are kept, the linear probe's or the fine-tuned ones, and the figures and history that show it."""

import csv
import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from regraft.models.classifier.checkpoint import ValidationFigures
from regraft.models.compute.budget import TrainingPlan
from regraft.models.features.linear_probe import sum_log_loss
from regraft.models.statistics.design import bound_share, count_groups
from regraft.models.statistics.intervals import hold_together
from regraft.models.statistics.merits import measure_lead, rate_hits

HISTORY_COLUMNS = ("epoch", "train_loss", "val_loss", "val_accuracy", "learning_rate")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of probe and fine-tuned network is kept; a verdict on the same validation images.

    ``gained`` images the fine-tuned one answers better, ``lost`` the probe; ``p_value`` is that of the lead between
    them. The fine-tuned one must be ahead by more than one standard error: the probe is simpler, and when it is kept
    it learns the validation images too.
    """

    kept: Literal["probe", "finetuned"]
    gained: int
    lost: int
    p_value: float
    n: int
    reason: str


def choose_weights(merits: dict[str, np.ndarray], plan: TrainingPlan, groups: np.ndarray | None = None) -> Choice:
    """Return which weights are kept, by the merits ``(N,)`` of both on the same images, and the images' groups."""
    n = len(merits["probe"])
    if "finetuned" not in merits:
        lack = "no epoch of fine-tuning was completed" if plan.steps else "nothing was fine-tuned"
        return Choice("probe", 0, 0, 1.0, n, f"{lack}: {plan.reason}")
    lead = measure_lead(merits["probe"], merits["finetuned"], groups)
    kept: Literal["probe", "finetuned"] = "finetuned" if lead.value > lead.error else "probe"
    held = hold_together(groups)
    where = "" if held is None else f" in {count_groups(held)} groups"
    reason = (
        f"of {n} validation images{where} fine-tuning gains {lead.gained} and loses {lead.lost} against the linear "
        f"probe (p={lead.p_value:.3g}); {'it is kept' if kept == 'finetuned' else 'the simpler probe is kept'}"
    )
    return Choice(kept, lead.gained, lead.lost, lead.p_value, n, reason)


def spare_training(plan: TrainingPlan, probe: np.ndarray, groups: np.ndarray | None = None) -> TrainingPlan:
    """Return the plan, without a step where fine-tuning could not be kept even if it answered everything rightly.

    The probe's merits ``(N,)`` on the validation images bound the lead that ``choose_weights`` can find, so leaving the
    training out changes no weight. Decision 33.
    """
    ahead = measure_lead(probe, np.ones_like(probe), groups)
    if not plan.steps or ahead.value > ahead.error:
        return plan
    reason = (
        f"the linear probe errs on {len(probe) - int(np.sum(probe))} of {len(probe)} validation images, so that not "
        "even a network without an error could be told from it"
    )
    return replace(plan, steps=0, views=0, reason=reason)


def rate_logits(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None) -> ValidationFigures:
    """Return accuracy with its interval and log loss of logits ``(N, K)``, of images in ``groups`` ``(N,)``."""
    accuracy, low, high = bound_share(rate_hits(logits, labels), labels, groups)
    loss = sum_log_loss(logits.astype(np.float64), labels) / len(labels)
    return ValidationFigures(accuracy=accuracy, accuracy_low=low, accuracy_high=high, loss=loss, n=len(labels))


def format_history(train_loss: float, probe: ValidationFigures, history: list[dict[str, float]]) -> str:
    """Return ``history.csv``: row 0 is the probe, then one row per epoch."""
    first = {"epoch": 0, "train_loss": train_loss, "val_loss": probe.loss, "val_accuracy": probe.accuracy}
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in [first | {"learning_rate": 0.0}, *history]:
        writer.writerow({"epoch": int(row["epoch"])} | {name: f"{row[name]:.6g}" for name in HISTORY_COLUMNS[1:]})
    return buffer.getvalue()

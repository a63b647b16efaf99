"""The training loop: from a classifier with a fitted head to the mean of its last epochs, resumable.

Everything random is drawn from (seed, epoch) or (seed, step), so where a run was killed leaves no trace. One step is
in ``step.py``; what to train and how long is decided in ``models/compute/budget.py``; the choice between probe and
result in ``models/training/finetune.py``.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.snapshots import ResumeFolder, Snapshot
from regraft.models.features.adabn import list_batchnorms
from regraft.models.features.linear_probe import sum_log_loss
from regraft.models.statistics.merits import rate_hits
from regraft.models.training.blending import add_to_mean, is_averaged
from regraft.models.training.optimizer import build_optimizer, pack_optimizer, unpack_optimizer
from regraft.models.training.step import Stepper, TrainingDiverged, TrainingSetup

logger = logging.getLogger(__name__)

SAVE_EVERY_S = 10.0
SAVING_PAYS = 10.0
"""An epoch's end is saved when so many times the last saving's seconds have passed: a short epoch is soon repeated."""
MIN_BATCHNORM_BATCH = 32


@dataclass
class TrainingRun:
    """Where a run stands: all that a snapshot must hold beside weights and optimiser.

    ``mean`` are the weights after the latest epoch until the last third begins, then the mean over the ``averaged``
    epochs since; empty before the first epoch has ended.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    averaged: int = 0
    mean: dict[str, Tensor] = field(default_factory=dict)
    elapsed_s: float = 0.0
    cut: bool = False

    def note(self) -> dict[str, Any]:
        """Return the part that is not tensors."""
        names = ("step", "losses", "history", "averaged", "elapsed_s")
        return {name: getattr(self, name) for name in names}


def set_training_mode(classifier: Classifier, batch_size: int) -> bool:
    """Put the network in train mode but for BatchNorm that must keep its statistics; say whether any BatchNorm trains.

    Frozen layers keep the target's statistics, and so do all when the batch is too small to estimate from.
    """
    classifier.train()
    layers = list_batchnorms(classifier.backbone)
    trained = [m for m in layers if batch_size >= MIN_BATCHNORM_BATCH and (m.weight is None or m.weight.requires_grad)]
    for layer in layers:
        layer.train(layer in trained)
    return bool(trained)


def copy_state(classifier: Classifier) -> dict[str, Tensor]:
    """Return a copy of all weights and statistics on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in classifier.state_dict().items()}


def save_run(run: TrainingRun, classifier: Classifier, optimizer: torch.optim.AdamW, resume: ResumeFolder) -> None:
    """Write a snapshot of the run as it stands."""
    tensors = {"weights": classifier.state_dict(), "optimizer": pack_optimizer(optimizer), "mean": run.mean}
    resume.save_step(run.step, Snapshot(tensors, run.note()))


def restore_run(classifier: Classifier, optimizer: torch.optim.AdamW, resume: ResumeFolder) -> TrainingRun:
    """Return the run as its newest snapshot left it, weights and optimiser included; a new one without a snapshot."""
    snapshot = resume.load_latest_step()
    if snapshot is None:
        return TrainingRun()
    classifier.load_state_dict(snapshot.tensors["weights"])
    unpack_optimizer(optimizer, snapshot.tensors["optimizer"])
    return TrainingRun(mean=snapshot.tensors["mean"], **snapshot.info)


def close_epoch(run: TrainingRun, classifier: Classifier, setup: TrainingSetup, lr: float) -> None:
    """Score the validation part for the history, and take the weights into the mean."""
    data, plan = setup.data, setup.plan
    logits = setup.feed.score_held(plan.batch_size)
    labels = data.labels[data.validation]
    row = {
        "epoch": float(len(run.history) + 1),
        "train_loss": sum(run.losses) / len(run.losses),
        "val_loss": sum_log_loss(logits.astype(np.float64), labels) / len(labels),
        "val_accuracy": float(np.mean(rate_hits(logits, labels))),
        "learning_rate": lr,
    }
    if not math.isfinite(row["val_loss"]):
        raise TrainingDiverged(
            f"validation loss {row['val_loss']} after epoch {len(run.history) + 1} (step {run.step} of {plan.steps}). "
            "Lower finetune.loop.backbone_lr and head_lr, by ten say, and look for broken images or weights."
        )
    run.history.append(row)
    run.mean = add_to_mean(run.mean, copy_state(classifier), run.averaged)
    run.averaged += is_averaged(len(run.history), plan.epochs)
    run.losses = []


def run_training(
    classifier: Classifier,
    setup: TrainingSetup,
    resume: ResumeFolder,
    *,
    stop_s: float,
    progress: Callable[[int, int], None] | None = None,
) -> TrainingRun:
    """Fine-tune ``classifier`` in place; the mean weights of the last epochs are in the result.

    Args:
        classifier: On its device, head already fitted.
        setup: Where batches come from, how deep, how long and how.
        resume: Snapshots; a run that was killed goes on from its newest.
        stop_s: Seconds, over all attempts, after which the run ends with what it has (``cut``).
        progress: Called with (steps done, steps in all).

    Raises:
        TrainingDiverged: If a loss is not finite.
    """
    plan = setup.plan
    optimizer = build_optimizer(classifier, plan.frozen_groups, setup.config)
    run = restore_run(classifier, optimizer, resume)
    stepper = Stepper(classifier, optimizer, setup)
    started = saved = time.monotonic()
    saving_s, before = 0.0, run.elapsed_s
    ready = -1
    while run.step < plan.steps and not run.cut:
        epoch = run.step // plan.steps_per_epoch
        if epoch != ready:
            setup.feed.begin_epoch(epoch)
            set_training_mode(classifier, plan.batch_size)
            ready = epoch
        stepper.take(run.step)
        run.step += 1
        run.elapsed_s = before + time.monotonic() - started
        ended = run.step % plan.steps_per_epoch == 0
        if ended:
            run.losses += stepper.settle()
            close_epoch(run, classifier, setup, optimizer.param_groups[-1]["lr"])
        since = time.monotonic() - saved
        if since > SAVE_EVERY_S or (ended and since > SAVING_PAYS * saving_s):
            run.losses += stepper.settle()  # what has diverged is not saved
            save_run(run, classifier, optimizer, resume)
            saving_s, saved = time.monotonic() - saved - since, time.monotonic()
        if progress is not None:
            progress(run.step, plan.steps)
        run.cut = run.elapsed_s > stop_s and run.step < plan.steps
    run.losses += stepper.settle()
    return run

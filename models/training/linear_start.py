"""Where fine-tuning starts: a linear probe on kept features; and what becomes of that probe when it is the one kept."""

from dataclasses import dataclass

import numpy as np
import torch

from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.snapshots import ResumeFolder, Snapshot
from regraft.models.features.cache import FrozenBackbone
from regraft.models.features.linear_probe import Folds, Probe, cross_validate, fit_probe, sum_log_loss
from regraft.models.training.data import TrainingData
from regraft.models.training.temperature import fit_temperature


@dataclass(frozen=True, slots=True)
class Start:
    """What is known before the first step: the probe fitted on the train rows and what it says of the others.

    Attributes:
        probe: On D features, K classes.
        widths: Numbers in each block of the features.
        features: ``(N, D)`` of the train rows and the validation rows, in that order.
        logits: ``(M, K)`` of the validation rows.
        train_loss: Mean log loss on the train rows, nats.
        rare_weight: With which the probe was fitted.
    """

    probe: Probe
    widths: tuple[int, ...]
    features: np.ndarray
    logits: np.ndarray
    train_loss: float
    rare_weight: float = 0.0


def prepare_start(
    frozen: FrozenBackbone, data: TrainingData, classes: int, resume: ResumeFolder, rare_weight: float = 0.0
) -> Start:
    """Fit the probe on kept features, which a run after a kill finds again in the snapshot."""
    snapshot = resume.load("start")
    if snapshot is None:
        resume.clear()
        train, held = (frozen.embed(data.pixels, rows=rows) for rows in (data.train, data.validation))
        values = {"train": torch.from_numpy(train.values), "held": torch.from_numpy(held.values)}
        snapshot = Snapshot({"features": values}, {"widths": list(train.widths)})
        resume.save("start", snapshot)
    train_values, held_values = (snapshot.tensors["features"][part].numpy() for part in ("train", "held"))
    widths, labels = tuple(snapshot.info["widths"]), data.labels[data.train]
    folds = Folds(groups=data.take_groups(data.train))
    found = cross_validate(train_values, labels, classes=classes, widths=widths, rare_weight=rare_weight, folds=folds)
    probe = fit_probe(train_values, labels, classes=classes, c=found.c, widths=widths, rare_weight=rare_weight)
    loss = sum_log_loss(probe.score(train_values).astype(np.float64), labels) / len(labels)
    everything = np.concatenate([train_values, held_values])
    return Start(probe, widths, everything, probe.score(held_values).astype(np.float32), loss, rare_weight)


def refit_probe(classifier: Classifier, data: TrainingData, start: Start) -> float:
    """Fit the kept probe on the validation rows too, now that nothing is left to choose; return its temperature.

    With ten labels a class the validation part is worth two more. The temperature is fitted on what probes of
    the same c say of images outside their folds, and of other groups where images come in groups.
    """
    labels = np.concatenate([data.labels[data.train], data.labels[data.validation]])
    classes, c = len(start.probe.bias), start.probe.c
    folds = Folds(groups=data.take_groups(np.concatenate([data.train, data.validation])))
    weighing = {"widths": start.widths, "rare_weight": start.rare_weight}
    said = cross_validate(start.features, labels, classes=classes, cs=[c], folds=folds, **weighing)
    classifier.load_probe(fit_probe(start.features, labels, classes=classes, c=c, **weighing))
    return fit_temperature(said.logits, labels)

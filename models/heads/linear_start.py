"""Where fine-tuning starts: a linear probe on kept features; and what becomes of that probe when it is the one kept."""

from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from regraft.models.classifier.checkpoint import Classifier, ImbalanceFigures
from regraft.models.compute.snapshots import ResumeFolder, Snapshot
from regraft.models.features.cache import FrozenBackbone
from regraft.models.features.linear_probe import Folds, Probe, cross_validate, fit_probe, sum_log_loss
from regraft.models.features.view_probe import (
    ProbeProblem,
    ViewedFeatures,
    cross_validate_views,
    fit_view_probe,
    hold_out_views,
)
from regraft.models.heads.data import TrainingData
from regraft.models.heads.head_views import (
    MIRRORED,
    HeadConfig,
    HeadFigures,
    judge_views,
    plan_head_views,
    try_mirrors,
)
from regraft.models.heads.imbalance import judge_imbalance, list_offsets
from regraft.models.heads.temperature import fit_temperature
from regraft.models.views.view import View


@dataclass(frozen=True, slots=True)
class Start:
    """What is known before the first step: the probe fitted on the train rows and what it says of the others.

    Attributes:
        probe: On D features, K classes.
        plain_c: Inverse penalty of a probe on the images as they are alone.
        widths: Numbers in each block of the features.
        features: ``(N, D)`` of the train rows and the validation rows, in that order.
        views: ``(V, N, D)`` of the views of these that the probe was fitted on; V is 0 where it was not.
        logits: ``(M, K)`` of the validation rows.
        train_loss: Mean log loss on the train rows, nats.
        rare_weight: With which the probe was fitted.
        mirrors: Whether images mirrored left to right, and top to bottom, are still of their class; None if untried.
        head: How the views were decided on.
        imbalance: How it was decided whether rare classes are answered oftener. The probe and its logits are as they
            were fitted all the same.
    """

    probe: Probe
    plain_c: float
    widths: tuple[int, ...]
    features: np.ndarray
    views: np.ndarray
    logits: np.ndarray
    train_loss: float
    rare_weight: float
    mirrors: tuple[bool, bool] | None
    head: HeadFigures
    imbalance: ImbalanceFigures

    def list_offsets(self, labels: np.ndarray) -> np.ndarray:
        """Return what is subtracted from the logits ``(K,)`` of a head fitted on ``labels`` in the end."""
        classes = len(self.probe.bias)
        adjusts = self.imbalance.way == "logit_adjustment"
        return list_offsets(labels, classes) if adjusts else np.zeros(classes, np.float32)


@dataclass(frozen=True, slots=True)
class StartConfig:
    """How the probe is fitted: on which views, how much rare classes count, whether left and right mean nothing."""

    head: HeadConfig = field(default_factory=HeadConfig)
    rare_weight: float = 0.0
    flip_horizontal: bool = True


def prepare_start(
    frozen: FrozenBackbone, data: TrainingData, classes: int, resume: ResumeFolder, config: StartConfig | None = None
) -> Start:
    """Fit the probe on kept features, which a run after a kill finds again in the snapshot."""
    config = config or StartConfig()
    snapshot = resume.load("start")
    if snapshot is None:
        resume.clear()
        snapshot = embed_start(frozen, data, classes, config)
        resume.save("start", snapshot)
    return fit_start(snapshot, data, classes, config)


def embed_start(frozen: FrozenBackbone, data: TrainingData, classes: int, config: StartConfig) -> Snapshot:
    """Return the features of train and validation rows and of the views that the head may be fitted on."""
    train, held = (frozen.embed(data.pixels, rows=rows) for rows in (data.train, data.validation))
    widths, labels = train.widths, data.labels[data.train]
    info: dict[str, object] = {"widths": list(widths), "mirrors": None}
    values = {"train": train.values, "held": held.values}
    if config.head.views and np.bincount(labels).min() > 1:
        mirrors = (False, False)
        if config.head.mirror:
            found = cross_validate(train.values, labels, classes=classes, widths=widths, folds=fold_train(data))
            probe = fit_probe(train.values, labels, classes=classes, c=found.c, widths=widths)
            place = np.sort(np.random.default_rng(0).permutation(len(data.validation))[:MIRRORED])
            asked = data.validation[place]

            def embed(rows: np.ndarray, view: View) -> np.ndarray:
                return frozen.embed(data.pixels, rows=rows, view=view).values

            mirrors = try_mirrors(probe, embed, asked, data.labels[asked], held.values[place])
            info["mirrors"] = list(mirrors)
        rows = np.concatenate([data.train, data.validation])
        planned = plan_head_views(config.head, data.pixels, rows, mirrors[0] and config.flip_horizontal, mirrors[1])
        info["views"] = [asdict(view) for view in planned]
        values["views"] = np.stack([frozen.embed(data.pixels, rows=rows, view=view).values for view in planned])
    return Snapshot({"features": {name: torch.from_numpy(each) for name, each in values.items()}}, info)


def fold_train(data: TrainingData) -> Folds:
    """Return how the train rows are dealt into folds."""
    return Folds(groups=data.take_groups(data.train))


def fit_start(snapshot: Snapshot, data: TrainingData, classes: int, config: StartConfig) -> Start:
    """Fit the plain probe, and one on views too; keep the second where held-out images speak for it."""
    values = {name: tensor.numpy() for name, tensor in snapshot.tensors["features"].items()}
    widths, labels, train = tuple(snapshot.info["widths"]), data.labels[data.train], values["train"]
    weighing = {"classes": classes, "widths": widths, "rare_weight": config.rare_weight}
    found = cross_validate(train, labels, folds=fold_train(data), **weighing)
    head, viewed_c, said = HeadFigures(), found.c, found.logits
    everything = np.concatenate([train, values["held"]])
    problem = ProbeProblem(classes, widths, config.rare_weight, fold_train(data))
    views = values.get("views", np.empty((0, *everything.shape), np.float32))
    if len(views):
        taught = ViewedFeatures.of(train, views[:, : len(train)], widths)
        trial = cross_validate_views(taught, labels, problem, found.c)
        head = judge_views(trial, labels, [View(**view) for view in snapshot.info["views"]])
        viewed_c, views, said = trial.c, views[: head.views], (trial.viewed if head.views else trial.plain)[0]
    elif config.head.views:
        head = head.model_copy(
            update={"reason": "a class has a single training image: nothing could be held out to decide on views"}
        )
    if len(views):
        probe = fit_view_probe(taught, labels, problem, viewed_c)
    else:
        probe = fit_probe(train, labels, c=found.c, **weighing)
    loss = sum_log_loss(probe.score(train).astype(np.float64), labels) / len(labels)
    logits = probe.score(values["held"]).astype(np.float32)
    mirrors = snapshot.info["mirrors"]
    shapes = (found.c, widths, everything, views)
    # Whoever weighs rare classes in the loss has answered the question already.
    wanted = "plain" if config.rare_weight else config.head.imbalance
    imbalance = judge_imbalance(said, labels, classes, wanted)
    return Start(probe, *shapes, logits, loss, config.rare_weight, mirrors and tuple(mirrors), head, imbalance)


def refit_probe(classifier: Classifier, data: TrainingData, start: Start) -> tuple[float, Probe | None]:
    """Fit the kept probe on the validation rows too, now that nothing is left to choose; return its temperature.

    Where it is fitted on views, the plain probe of the same images is returned beside it: what it would have been
    without them.

    With ten labels a class the validation part is worth two more. The temperature is fitted on what probes of
    the same c say of images outside their folds, and of other groups where images come in groups.
    """
    labels = np.concatenate([data.labels[data.train], data.labels[data.validation]])
    classes, c = len(start.probe.bias), start.probe.c
    folds = Folds(groups=data.take_groups(np.concatenate([data.train, data.validation])))
    weighing = {"classes": classes, "widths": start.widths, "rare_weight": start.rare_weight}
    offsets, plain = start.list_offsets(labels), None
    if len(start.views):
        problem = ProbeProblem(classes, start.widths, start.rare_weight, folds)
        taught = ViewedFeatures.of(start.features, start.views, start.widths)
        said = hold_out_views(taught, labels, problem, c)
        classifier.load_probe(fit_view_probe(taught, labels, problem, c))
        plain = fit_probe(start.features, labels, c=start.plain_c, **weighing)
        plain = replace(plain, bias=plain.bias - offsets)
    else:
        said = cross_validate(start.features, labels, cs=[c], folds=folds, **weighing).logits
        classifier.load_probe(fit_probe(start.features, labels, c=c, **weighing))
    classifier.adjust(offsets)
    return fit_temperature(said - offsets, labels, alike=bool(offsets.any())), plain

"""Fine-tuning from end to end: linear probe on kept features, fine-tuning from that head, the better one kept.

The loop is in ``models/training/loop.py``, the settings in ``models/training/config.py``, what is written in
``models/classifier/checkpoint.py``.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.intermediate_features import DEPTH_SHARES, StagedBackbone
from regraft.models.backbones.network import Normalization, read_config
from regraft.models.backbones.split import cut_backbone
from regraft.models.classifier.checkpoint import BackboneOrigin, CheckpointInfo, Classifier, save_checkpoint
from regraft.models.compute.budget import TrainingPlan
from regraft.models.compute.device import Compute, choose_device, deterministic_kernels, limit_threads, place_module
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.adabn import list_batchnorms
from regraft.models.features.cache import FORMAT, FeatureStore, FrozenBackbone, hash_pixels
from regraft.models.features.linear_probe import Probe
from regraft.models.heads.data import LabelledImages, TrainingData, gather_data
from regraft.models.heads.linear_start import Start, prepare_start, refit_probe
from regraft.models.heads.temperature import fit_temperature
from regraft.models.statistics.merits import rate_hits
from regraft.models.training.batches import ActivationFeed, Feed, PixelFeed
from regraft.models.training.blending import SHARES, describe_share, load_blend
from regraft.models.training.config import FinetuneConfig, make_plan
from regraft.models.training.loop import TrainingRun, copy_state, run_training, set_training_mode
from regraft.models.training.model_choice import choose_weights, format_history, rate_logits, spare_training
from regraft.models.training.step import TrainingSetup
from regraft.serving.decoding.preprocess import PreprocessSpec

logger = logging.getLogger(__name__)

STOP_FACTOR = 3.0
STOP_LEAST_S = 300.0
"""The fuse behind the budget: a busy machine should not make another model, only a hopeless one be stopped."""


@dataclass(frozen=True, slots=True)
class FinetunePaths:
    """Folders of one run of fine-tuning.

    Attributes:
        into: Of the checkpoint, replaced as a whole.
        state: Of snapshots; removed at the end.
        features: Of kept features, shared with the selection; None keeps none.
    """

    into: Path
    state: Path
    features: Path | None = None


def finetune(
    backbone: Backbone,
    images: LabelledImages,
    preprocess: PreprocessSpec,
    config: FinetuneConfig,
    paths: FinetunePaths,
    *,
    adapt_images: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CheckpointInfo:
    """Train a classifier on the "train" rows, choose on the "validation" rows and write the checkpoint.

    Equal arguments give equal bytes on one machine, also when the process was killed in between and run again.

    Args:
        backbone: Pretrained weights; where they came from goes into the checkpoint.
        images: Of the side that ``preprocess`` says; rows of other parts than these two are not looked at.
        preprocess: How the pixels were made.
        config: Budget and recipe.
        paths: Where snapshots, features and the checkpoint lie.
        adapt_images: Training images, at most, that BatchNorm statistics are re-estimated on; 0 keeps the source's.
        progress: Called with (steps done, steps in all) during fine-tuning.

    Raises:
        ValueError: If a part is empty or a class has no training image.
        BackboneError: If the weights do not fit their architecture.
        DeviceError: If "cuda" is asked for and absent.
        TrainingDiverged: If a loss is not finite.
    """
    began = time.monotonic()
    data, names, device = gather_data(images), images.names, choose_device(config.device)
    resume = ResumeFolder(paths.state, hash_inputs(backbone, data, names, preprocess, config, device, adapt_images))
    with limit_threads(config.threads), deterministic_kernels(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        frozen = open_frozen(backbone, data, config, FeatureStore(paths.features), adapt_images)
        start = prepare_start(frozen, data, len(names), resume, config.start)
        config = config.without_mirrors(start.mirrors)
        classifier = build_classifier(frozen.network, frozen.normalization, start.widths, len(names), device)
        classifier.load_probe(start.probe)
        plan = plan_from(classifier, data, start, config, adapt_images)
        probed = copy_state(classifier)
        run = train_from(classifier, data, plan, config, resume, progress)
        kept, plain_head = keep_better(classifier, data, plan, start, probed, run)
    info = describe_checkpoint(classifier, backbone, names, preprocess, plan, run, kept)
    history = format_history(start.train_loss, info.validation["probe"], run.history)
    info = save_checkpoint(classifier, info, history, paths.into, plain_head)
    resume.clear()
    logger.info("finetune done kept=%s epochs=%d seconds=%.1f", info.kept, info.epochs, time.monotonic() - began)
    return info


def open_frozen(
    backbone: Backbone, data: TrainingData, config: FinetuneConfig, store: FeatureStore, adapt_images: int
) -> FrozenBackbone:
    """Return the backbone adapted to the training rows."""
    # Which images it is adapted to does not hang on the seed, as in the selection: so features are found again.
    compute = replace(Compute.of(config), seed=0)
    return FrozenBackbone(
        backbone, data.pixels, rows=data.train, adapt_images=adapt_images, store=store, compute=compute
    )


def build_classifier(
    network: nn.Module, normalization: Normalization, widths: Sequence[int], classes: int, device: torch.device
) -> Classifier:
    """Return the network with an empty head on ``device``."""
    return place_module(Classifier(network, normalization, sum(widths), classes), device)


def plan_from(
    classifier: Classifier, data: TrainingData, start: Start, config: FinetuneConfig, adapt_images: int
) -> TrainingPlan:
    """Return the plan for what the budget affords; without a step where the probe leaves nothing to gain."""
    adapted = min(adapt_images, len(data.train)) if list_batchnorms(classifier.backbone) else 0
    device, held = classifier.head.weight.device, data.validation
    plan = make_plan(classifier, data, data.pixels.shape[1], config, device, adapted)
    answered = start.logits - start.list_offsets(data.labels[data.train])
    plan = spare_training(plan, rate_hits(answered, data.labels[held]), data.take_groups(held))
    logger.info("training plan steps=%d views=%d reason=%s", plan.steps, plan.views, plan.reason)
    return plan


def hash_inputs(
    backbone: Backbone,
    data: TrainingData,
    names: Sequence[str],
    preprocess: PreprocessSpec,
    config: FinetuneConfig,
    device: torch.device,
    adapt_images: int,
) -> str:
    """Return the SHA-256 of everything the weights depend on: a snapshot of another key is not resumed."""
    digest = hashlib.sha256()
    recipe = config.model_dump(exclude={"stop_s"})
    rest = [
        FORMAT,
        SHARES,
        DEPTH_SHARES,
        backbone.sha256,
        list(names),
        preprocess.sha256,
        recipe,
        device.type,
        torch.__version__,
        adapt_images,
    ]
    digest.update(json.dumps(rest, sort_keys=True).encode())
    for rows in (data.train, data.validation, data.labels, *([] if data.groups is None else [data.groups])):
        digest.update(np.ascontiguousarray(rows).tobytes())
    digest.update(hash_pixels(data.pixels).encode())
    return digest.hexdigest()


def open_feed(
    classifier: Classifier, data: TrainingData, plan: TrainingPlan, config: FinetuneConfig, folder: Path
) -> Feed:
    """Return what training reads: activations kept in ``folder`` where the plan keeps views of them, else pixels."""
    augment, seed = config.loop.augment, config.seed
    if not plan.views:
        return PixelFeed(classifier, data, augment, seed)
    cut = cut_backbone(classifier.backbone, plan.frozen_groups, data.pixels.shape[1])
    assert cut is not None  # the plan has looked
    return ActivationFeed(classifier, cut, data, augment, plan=plan, seed=seed, folder=folder)


def train_from(
    classifier: Classifier,
    data: TrainingData,
    plan: TrainingPlan,
    config: FinetuneConfig,
    resume: ResumeFolder,
    progress: Callable[[int, int], None] | None,
) -> TrainingRun:
    """Fine-tune from the head that ``classifier`` has, on pixels or on kept activations as the plan says."""
    feed = open_feed(classifier, data, plan, config, resume.folder / "activations")
    stop_s = config.stop_s or max(STOP_FACTOR * config.budget_s, STOP_LEAST_S)
    setup = TrainingSetup(feed, data, plan, config.loop, config.seed)
    return run_training(classifier, setup, resume, stop_s=stop_s, progress=progress)


def describe_batchnorm(classifier: Classifier, trained: bool) -> Literal["none", "frozen", "trained"]:
    """Say what fine-tuning did with the BatchNorm statistics."""
    if not list_batchnorms(classifier.backbone):
        return "none"
    return "trained" if trained else "frozen"


def keep_better(
    classifier: Classifier,
    data: TrainingData,
    plan: TrainingPlan,
    start: Start,
    probed: dict[str, Tensor],
    run: TrainingRun,
) -> tuple[dict[str, Any], Probe | None]:
    """Load the better weights and their temperature into ``classifier``; return the figures for its info.

    Beside them comes the head without views, where one with views is kept on the same network.
    """
    plain_head = None
    labels, groups = data.labels[data.validation], data.take_groups(data.validation)
    trained = set_training_mode(classifier, plan.batch_size) and run.step > 0
    logits, share = {"probe": start.logits}, 0.0
    if run.mean:
        share, logits["finetuned"] = load_blend(classifier, data, plan, probed, run.mean)
    offsets = start.list_offsets(data.labels[data.train])
    logits = {kind: values - offsets for kind, values in logits.items()}
    choice = choose_weights({kind: rate_hits(values, labels) for kind, values in logits.items()}, plan, groups)
    if choice.kept == "finetuned":
        classifier.adjust(offsets)
        temperature = fit_temperature(logits["finetuned"], labels, alike=bool(offsets.any()))
    else:
        classifier.load_state_dict(probed)
        temperature, plain_head = refit_probe(classifier, data, start)
    classifier.temperature.fill_(temperature)
    classifier.eval()
    figures = {
        "kept": choice.kept,
        "reason": f"{choice.reason}{describe_share(share) if choice.kept == 'finetuned' else ''}",
        "gained": choice.gained,
        "lost": choice.lost,
        "p_value": choice.p_value,
        "share": share if choice.kept == "finetuned" else 0.0,
        "batchnorm": describe_batchnorm(classifier, trained and choice.kept == "finetuned"),
        "strength": start.probe.c,
        "head": start.head,
        "imbalance": start.imbalance,
        "temperature": temperature,
        "validation": {kind: rate_logits(values, labels, groups) for kind, values in logits.items()},
    }
    return figures, plain_head


def describe_checkpoint(
    classifier: Classifier,
    backbone: Backbone,
    names: Sequence[str],
    preprocess: PreprocessSpec,
    plan: TrainingPlan,
    run: TrainingRun,
    figures: dict[str, Any],
) -> CheckpointInfo:
    """Return everything about the checkpoint that is not a weight."""
    normalization = classifier.normalization
    return CheckpointInfo(
        labels=list(names),
        backbone=BackboneOrigin(
            name=backbone.name, sha256=backbone.sha256, licence=backbone.licence, source=backbone.source
        ),
        backbone_config=read_config(backbone.folder),
        preprocess=preprocess,
        normalization={"mean": normalization.mean, "std": normalization.std},
        embedding_dims=classifier.head.in_features,
        taps=list(DEPTH_SHARES) if isinstance(classifier.backbone, StagedBackbone) else [],
        steps=run.step,
        epochs=len(run.history),
        frozen_groups=plan.frozen_groups,
        groups=plan.groups,
        views=plan.views,
        budget_cut=run.cut,
        budget_reason=plan.reason,
        **figures,
    )

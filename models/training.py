"""Fine-tuning from end to end: AdaBN, linear probe on cached features, fine-tuning from that head, the better one kept.

The loop itself is in ``models/loop.py``, the budget in ``models/plan.py``, what is written in ``models/checkpoint.py``.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field

from models.adaptation import adapt_batchnorm, list_batchnorms
from models.backbones import build_backbone, read_config, read_input
from models.calibration import fit_temperature
from models.checkpoint import BackboneOrigin, CheckpointInfo, Classifier, save_checkpoint
from models.choice import choose_weights, format_history, rate_logits
from models.depth import count_work, group_by_depth
from models.device import DeviceName, choose_device, deterministic_kernels, limit_threads, place_module
from models.features import extract_features
from models.hub import Backbone
from models.loop import TrainingRun, copy_state, run_training, score_images, set_training_mode
from models.optimizer import LoopConfig
from models.plan import NOMINAL_SPEEDS, Speed, TrainingPlan, plan_training
from models.probe import fit_probe, sum_log_loss
from models.resume import ResumeFolder, Snapshot
from models.training_data import TrainingData, gather_data, hash_pixels
from serving.preprocess import PreprocessSpec

logger = logging.getLogger(__name__)

STOP_FACTOR = 3.0
STOP_LEAST_S = 300.0
"""The fuse behind the budget: a busy machine should not make another model, only a hopeless one be stopped."""


class FinetuneConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Budget and recipe of the finetune stage."""

    budget_s: float = Field(150.0, gt=0)
    """Seconds the stage should take on the nominal machine; turned into steps by counted work, never by the clock.
    At three times as much on the clock, and five minutes at least, it ends with the best epoch so far."""
    nominal_gflops: float | None = Field(None, gt=0)
    """Billions of operations per second of the nominal machine; by default a slow two-core CPU, or a large GPU."""
    nominal_gigabytes: float | None = Field(None, gt=0)
    """Billions of activation bytes per second of the nominal machine."""
    max_epochs: int = Field(30, ge=0)
    """Passes over the training part at most; 0 keeps the linear probe."""
    min_epochs: int = Field(3, ge=1)
    """Passes that should fit into the budget: the layers near the input are frozen until they do."""
    batch_size: int = Field(32, ge=1)
    """Images per step; from 32 on BatchNorm trains, below it is frozen at the target's statistics."""
    adapt_images: int = Field(512, ge=0)
    """Training images, at most, that BatchNorm statistics are re-estimated on; 0 keeps the source's."""
    loop: LoopConfig = LoopConfig()
    """Rates, regularisation and augmentation."""
    seed: int = Field(0, ge=0)
    """Of order, augmentation and dropout."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""


def finetune(
    backbone: Backbone,
    pixels: np.ndarray,
    labels: np.ndarray,
    parts: np.ndarray,
    names: Sequence[str],
    preprocess: PreprocessSpec,
    config: FinetuneConfig,
    *,
    state: Path,
    into: Path,
    progress: Callable[[int, int], None] | None = None,
) -> CheckpointInfo:
    """Train a classifier on the "train" rows, choose on the "validation" rows and write the checkpoint ``into``.

    Equal arguments give equal bytes on one machine, also when the process was killed in between and run again.

    Args:
        backbone: Pretrained weights; where they came from goes into the checkpoint.
        pixels: uint8 ``(N, S, S, 3)``, S as ``preprocess`` says; a memory map is read batch by batch.
        labels: ``(N,)`` integers into ``names``.
        parts: ``(N,)`` strings; rows of other parts than "train" and "validation" are not looked at.
        names: The labels' names.
        preprocess: How the pixels were made.
        config: Budget and recipe.
        state: Folder for snapshots; removed at the end.
        into: Folder to write, replaced as a whole.
        progress: Called with (steps done, steps in all) during fine-tuning.

    Raises:
        ValueError: If a part is empty or a class has no training image.
        BackboneError: If the weights do not fit their architecture.
        DeviceError: If "cuda" is asked for and absent.
        TrainingDiverged: If a loss is not finite.
    """
    began = time.monotonic()
    data = gather_data(pixels, labels, parts)
    device = choose_device(config.device)
    resume = ResumeFolder(state, hash_inputs(backbone, data, names, preprocess, config, device))
    with limit_threads(config.threads), deterministic_kernels(), torch.random.fork_rng():
        torch.manual_seed(config.seed)
        classifier = place_module(build_classifier(backbone.folder, len(names)), device)
        plan = make_plan(classifier, data, preprocess.size_px, config, device)
        start = prepare_start(classifier, data, names, config, resume)
        run = run_training(
            classifier, data, plan, config.loop, resume,
            seed=config.seed, stop_s=max(STOP_FACTOR * config.budget_s, STOP_LEAST_S), progress=progress,
        )  # fmt: skip
        figures = keep_better(classifier, data, plan, start, run)
    info = describe_checkpoint(classifier, backbone, names, preprocess, plan, run, figures)
    history = format_history(start.info["train_loss"], info.validation["probe"], run.history)
    info = save_checkpoint(classifier, info, history, into)
    resume.clear()
    logger.info("finetune done kept=%s epochs=%d seconds=%.1f", info.kept, info.epochs, time.monotonic() - began)
    return info


def build_classifier(folder: Path, classes: int) -> Classifier:
    """Return the pretrained network of a backbone folder with an empty head; its width is measured on one image."""
    network, wanted = build_backbone(folder), read_input(folder)
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, wanted.size_px, wanted.size_px)).shape[1]
    return Classifier(network, wanted.normalization, features, classes)


def hash_inputs(
    backbone: Backbone,
    data: TrainingData,
    names: Sequence[str],
    preprocess: PreprocessSpec,
    config: FinetuneConfig,
    device: torch.device,
) -> str:
    """Return the SHA-256 of everything the weights depend on: a snapshot of another key is not resumed."""
    digest = hashlib.sha256()
    rest = [backbone.sha256, list(names), preprocess.sha256, config.model_dump(), device.type, torch.__version__]
    digest.update(json.dumps(rest, sort_keys=True).encode())
    for rows in (data.train, data.validation, data.labels):
        digest.update(np.ascontiguousarray(rows).tobytes())
    digest.update(hash_pixels(data.pixels).encode())
    return digest.hexdigest()


def make_plan(
    classifier: Classifier, data: TrainingData, size_px: int, config: FinetuneConfig, device: torch.device
) -> TrainingPlan:
    """Return the plan that fits the budget on the nominal machine of this kind of device."""
    nominal = NOMINAL_SPEEDS[device.type]
    speed = Speed(config.nominal_gflops or nominal.gflops, config.nominal_gigabytes or nominal.gigabytes)
    backbone = classifier.backbone.eval()
    adapted = min(config.adapt_images, len(data.train)) if list_batchnorms(backbone) else 0
    plan = plan_training(
        count_work(backbone, group_by_depth(backbone), size_px),
        speed,
        train=len(data.train),
        validation=len(data.validation),
        adapted=adapted,
        budget_s=config.budget_s,
        batch_size=config.batch_size,
        min_epochs=config.min_epochs,
        max_epochs=config.max_epochs,
    )
    logger.info("training plan steps=%d frozen_groups=%d reason=%s", plan.steps, plan.frozen_groups, plan.reason)
    return plan


def prepare_start(
    classifier: Classifier, data: TrainingData, names: Sequence[str], config: FinetuneConfig, resume: ResumeFolder
) -> Snapshot:
    """Adapt BatchNorm, fit the probe, load both into ``classifier``; or take them from the snapshot."""
    start = resume.load("start")
    if start is None:
        resume.clear()
        start = fit_start(classifier, data, names, config)
        resume.save("start", start)
    classifier.load_state_dict(start.tensors["weights"])
    return start


def fit_start(classifier: Classifier, data: TrainingData, names: Sequence[str], config: FinetuneConfig) -> Snapshot:
    """Return the classifier's weights after AdaBN and probe, its validation logits and its training loss."""
    normalization = classifier.normalization
    chosen = np.random.default_rng(config.seed).permutation(data.train)[: config.adapt_images]
    if len(chosen):
        adapt_batchnorm(
            classifier.backbone, data.pixels, normalization, rows=chosen, seed=config.seed, device=config.device
        )
    features, held = (
        extract_features(classifier.backbone, data.pixels, normalization, rows=rows, device=config.device)
        for rows in (data.train, data.validation)
    )
    labels, held_labels = data.labels[data.train], data.labels[data.validation]
    probe = fit_probe(features, labels, classes=len(names), validation=(held, held_labels))
    classifier.load_probe(probe)
    logits = torch.from_numpy(probe.score(held).astype(np.float32))
    loss = sum_log_loss(probe.score(features).astype(np.float64), labels) / len(labels)
    return Snapshot(
        {"weights": copy_state(classifier), "validation": {"logits": logits}},
        {"strength": probe.strength, "train_loss": loss},
    )


def describe_batchnorm(classifier: Classifier, trained: bool) -> Literal["none", "frozen", "trained"]:
    """Say what fine-tuning did with the BatchNorm statistics."""
    if not list_batchnorms(classifier.backbone):
        return "none"
    return "trained" if trained else "frozen"


def keep_better(
    classifier: Classifier, data: TrainingData, plan: TrainingPlan, start: Snapshot, run: TrainingRun
) -> dict[str, Any]:
    """Load the better weights and their temperature into ``classifier``; return the figures for its info."""
    labels = data.labels[data.validation]
    trained = set_training_mode(classifier, plan.batch_size) and run.step > 0
    logits = {"probe": start.tensors["validation"]["logits"].numpy()}
    if run.best_epoch:
        classifier.load_state_dict(run.best)
        logits["finetuned"] = score_images(classifier, data, data.validation, plan.batch_size)
    choice = choose_weights(logits, labels, plan)
    classifier.load_state_dict(run.best if choice.kept == "finetuned" else start.tensors["weights"])
    temperature = fit_temperature(logits[choice.kept], labels)
    classifier.temperature.fill_(temperature)
    classifier.eval()
    return {
        "kept": choice.kept,
        "reason": choice.reason,
        "gained": choice.gained,
        "lost": choice.lost,
        "p_value": choice.p_value,
        "best_epoch": run.best_epoch if choice.kept == "finetuned" else 0,
        "batchnorm": describe_batchnorm(classifier, trained),
        "strength": start.info["strength"],
        "temperature": temperature,
        "validation": {kind: rate_logits(values, labels) for kind, values in logits.items()},
    }


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
        steps=run.step,
        epochs=len(run.history),
        frozen_groups=plan.frozen_groups,
        groups=plan.groups,
        budget_cut=run.cut,
        budget_reason=plan.reason,
        **figures,
    )

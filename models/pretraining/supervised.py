"""Supervised pretraining of a small backbone on labelled grey fields, resumable, ending in a hub-format folder.

Every batch and every view is drawn from (seed, step), so a killed run ends with the weights of an undisturbed one.
Where the fields come from is not known here: a task introduces ``regraft.data.synthetic.formula``.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from regraft.models.backbones.network import build_architecture
from regraft.models.backbones.writer import WrittenBackbone, write_backbone
from regraft.models.compute.device import (
    choose_device,
    deterministic_kernels,
    limit_threads,
    mixed_precision,
    place_module,
)
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.pretraining.state import (
    LearningConfig,
    LearningState,
    check_loss,
    list_batch_rows,
    schedule_rate,
    seed_step,
    settle_batchnorms,
)
from regraft.models.pretraining.views import ViewConfig, make_views

logger = logging.getLogger(__name__)


class RecipeConfig(LearningConfig, frozen=True):
    """What is trained and how. The same values, fields and threads give the same bytes on a CPU."""

    architecture: str = "resnet10t"
    """A timm architecture; its body must stay small enough to ship."""
    model_args: dict[str, int | list[int]] = Field({"channels": [32, 64, 128, 256], "stem_width": 16})
    """Arguments of the architecture, such as narrower stages."""
    tag: str = Field("formula_v1", pattern=r"^[a-z0-9_]+$")
    """Second half of the backbone's name."""
    input_px: int = Field(128, ge=32, le=512)
    """Image side that the finished backbone asks for."""
    train_px: int = Field(64, ge=32, le=512)
    """Side of the training views; smaller than ``input_px`` trains faster at equal object size after cropping."""
    steps: int = Field(3000, ge=1)
    """Optimiser steps."""
    batch_size: int = Field(96, ge=2)
    """Views per step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak rate of AdamW; rises over the first twentieth, falls as a cosine."""
    weight_decay: float = Field(0.05, ge=0)
    """Decay of kernels and matrices."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Share of the target spread over all classes."""
    average_decay: float = Field(0.997, ge=0, lt=1)
    """Decay of the running average of the weights; the average is what ships. 0 ships the last weights."""
    views: ViewConfig = ViewConfig()
    """Changes of the fields."""


@dataclass(frozen=True, slots=True)
class PretrainedBackbone:
    """What a pretraining left."""

    backbone: WrittenBackbone
    steps: int
    accuracy: float
    """Share of the last tenth of the training views that the network named rightly."""


def pretrain_backbone(
    fields: np.ndarray,
    labels: np.ndarray,
    recipe: RecipeConfig,
    *,
    state: Path,
    into: Path,
    progress: Callable[[int, int], None] | None = None,
) -> PretrainedBackbone:
    """Train on the fields and write ``<into>/<architecture>.<tag>/``; a killed run continues from ``state``.

    Args:
        fields: uint8 ``(N, S, S)``.
        labels: Integers 0..K-1, shape ``(N,)``.
        recipe: Architecture and training.
        state: Folder of this run's snapshots; removed when the backbone is written.
        into: Where the backbone's folder is put, replacing one of the same name.
        progress: Called with (steps done, steps).

    Raises:
        ValueError: If fields and labels do not fit together or there are fewer than two classes.
        PretrainingDiverged: If the loss is not finite.
        BackboneError: If timm does not know the architecture.
        DeviceError: If the device is not there.
    """
    classes = _check_samples(fields, labels)
    device = choose_device(recipe.device)
    snapshots = ResumeFolder(state, fingerprint_run(fields, labels, recipe))
    with limit_threads(recipe.threads), deterministic_kernels():
        run = _start(recipe, classes, device)
        snapshot = snapshots.load_latest_step()
        if snapshot is not None:
            run.restore(snapshot)
        _train(run, fields, labels, recipe, device, snapshots, progress)
        finished = _finish(run, fields, recipe, into, device)
    snapshots.clear()
    logger.info(
        "pretraining done name=%s steps=%d accuracy=%.3f", finished.backbone.name, finished.steps, finished.accuracy
    )
    return finished


def _check_samples(fields: np.ndarray, labels: np.ndarray) -> int:
    """Return the number of classes of well-formed samples."""
    problems = []
    if fields.ndim != 3 or fields.dtype != np.uint8:
        problems.append(f"fields must be uint8 (N, S, S), are {fields.dtype} {fields.shape}")
    if labels.shape != fields.shape[:1]:
        problems.append(f"{len(fields)} fields have labels of shape {labels.shape}")
    classes = len(np.unique(labels))
    if classes < 2:
        problems.append(f"{classes} class gives nothing to tell apart")
    elif set(np.unique(labels)) != set(range(classes)):
        problems.append(f"labels must be 0..{classes - 1} without gaps")
    if problems:
        raise ValueError(
            "cannot pretrain: " + "; ".join(problems) + ". Render the samples with regraft.data.synthetic.formula."
        )
    return classes


def fingerprint_run(fields: np.ndarray, labels: np.ndarray, recipe: RecipeConfig) -> str:
    """Return the SHA-256 of all that the finished weights depend on."""
    text = recipe.describe()
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(fields).data)
    digest.update(np.ascontiguousarray(labels.astype(np.int64)).data)
    return digest.hexdigest()


def _start(recipe: RecipeConfig, classes: int, device: torch.device) -> LearningState:
    """Return a network with random weights and a linear classifier over it."""
    torch.manual_seed(recipe.seed)
    backbone = build_architecture({"architecture": recipe.architecture, "model_args": recipe.model_args})
    network = nn.Sequential(backbone, nn.Linear(embedding_width(backbone), classes))
    return LearningState(place_module(network, device), rate=recipe.learning_rate, decay=recipe.weight_decay)


def embedding_width(backbone: nn.Module) -> int:
    """Return the length of the embedding; some architectures answer more numbers than ``num_features`` says."""
    return int(getattr(backbone, "head_hidden_size", 0) or backbone.num_features)


def _train(
    run: LearningState,
    fields: np.ndarray,
    labels: np.ndarray,
    recipe: RecipeConfig,
    device: torch.device,
    snapshots: ResumeFolder,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Take the remaining steps, with a snapshot every ``save_every_s`` seconds."""
    saved = time.monotonic()
    run.network.train()
    while run.step < recipe.steps:
        chosen = list_batch_rows(len(fields), recipe.batch_size, run.step, recipe.seed)
        batch = torch.from_numpy(np.ascontiguousarray(fields[chosen])).to(device)
        target = torch.from_numpy(labels[chosen].astype(np.int64)).to(device)
        run.figures.append(_take_step(run, batch, target, recipe))
        run.step += 1
        if time.monotonic() - saved > recipe.save_every_s and run.step < recipe.steps:
            snapshots.save_step(run.step, run.snapshot())
            saved = time.monotonic()
        if progress is not None:
            progress(run.step, recipe.steps)


def _take_step(run: LearningState, fields: Tensor, target: Tensor, recipe: RecipeConfig) -> float:
    """Draw views, move the weights once, follow with the average; return the share of views named rightly."""
    generator = seed_step(recipe.seed, run.step, fields.device)
    # Neighbours in a sorted batch share their class; blending wants strangers.
    order = torch.randperm(len(fields), generator=generator, device=fields.device)
    fields, target = fields[order], target[order]
    views = make_views(fields, recipe.train_px, recipe.views, generator)
    with mixed_precision(fields.device):
        logits = run.network(views.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
    check_loss(loss, run.step, recipe.steps, recipe.learning_rate)
    run.descend(loss, recipe.learning_rate * schedule_rate(run.step, recipe.steps))
    run.follow(recipe.average_decay, run.step)
    return float((logits.argmax(1) == target).float().mean())


def _finish(
    run: LearningState, fields: np.ndarray, recipe: RecipeConfig, into: Path, device: torch.device
) -> PretrainedBackbone:
    """Settle the averaged network and write its body."""
    run.network.load_state_dict(run.average)
    settle_batchnorms(run.network, _draw_settling_views(fields, recipe, device))
    written = write_backbone(run.network[0], recipe.architecture, recipe.model_args, recipe.tag, recipe.input_px, into)
    recent = run.figures[-max(1, recipe.steps // 10) :]
    return PretrainedBackbone(written, steps=run.step, accuracy=float(np.mean(recent)))


def _draw_settling_views(fields: np.ndarray, recipe: RecipeConfig, device: torch.device) -> Iterator[Tensor]:
    """Yield up to 32 batches of fresh views at input size."""
    for step in range(min(32, recipe.steps)):
        rows = list_batch_rows(len(fields), recipe.batch_size, step, recipe.seed + 1)
        generator = torch.Generator(device=device).manual_seed(step)
        batch = torch.from_numpy(np.ascontiguousarray(fields[rows])).to(device)
        yield make_views(batch, recipe.input_px, recipe.views, generator)

"""Supervised pretraining of a small backbone on labelled grey fields, resumable, ending in a hub-format folder.

Every batch and every view is drawn from (seed, step), so a killed run ends with the weights of an undisturbed one.
Where the fields come from is not known here: a task introduces ``data.formula``.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional

from models.adaptation import list_batchnorms
from models.backbone_folder import WrittenBackbone, write_backbone
from models.backbones import build_architecture
from models.device import DeviceName, choose_device, deterministic_kernels, limit_threads, mixed_precision, place_module
from models.resume import ResumeFolder, Snapshot
from models.views import ViewConfig, make_views

logger = logging.getLogger(__name__)


class PretrainingDiverged(RuntimeError):  # noqa: N818
    """The loss of the pretraining is not finite any more."""


class RecipeConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
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
    seed: int = Field(0, ge=0)
    """Draws initial weights, batches and views."""
    threads: int = Field(1, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""
    device: DeviceName = "cpu"
    """Where to train."""
    save_every_s: float = Field(60.0, gt=0)
    """Seconds between snapshots; not part of what is learnt."""
    views: ViewConfig = ViewConfig()
    """Changes of the fields."""


@dataclass(frozen=True, slots=True)
class PretrainedBackbone:
    """What a pretraining left."""

    backbone: WrittenBackbone
    steps: int
    accuracy: float
    """Share of the last tenth of the training views that the network named rightly."""


class _Run:
    """Network, optimiser, average and figures at one step, with their snapshot."""

    def __init__(self, recipe: RecipeConfig, classes: int, device: torch.device) -> None:
        torch.manual_seed(recipe.seed)
        backbone = build_architecture({"architecture": recipe.architecture, "model_args": recipe.model_args})
        width = embedding_width(backbone)
        self.network = place_module(nn.Sequential(backbone, nn.Linear(width, classes)), device)
        self.average = {n: v.detach().clone() for n, v in self.network.state_dict().items()}
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        self.step = 0
        self.right: list[float] = []

    def snapshot(self) -> Snapshot:
        """Return everything that the next step depends on."""
        moments = {
            f"{index}.{name}": value
            for index, state in self.optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        tensors = {"network": self.network.state_dict(), "average": self.average, "optimiser": moments}
        return Snapshot(tensors, {"step": self.step, "right": self.right})

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from ``snapshot``."""
        self.network.load_state_dict(snapshot.tensors["network"])
        for name, value in self.average.items():
            value.copy_(snapshot.tensors["average"][name])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in snapshot.tensors["optimiser"].items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.step, self.right = int(snapshot.info["step"]), list(snapshot.info["right"])


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
        run = _Run(recipe, classes, device)
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
        raise ValueError("cannot pretrain: " + "; ".join(problems) + ". Render the samples with data.formula.")
    return classes


def fingerprint_run(fields: np.ndarray, labels: np.ndarray, recipe: RecipeConfig) -> str:
    """Return the SHA-256 of all that the finished weights depend on."""
    text = json.dumps(recipe.model_dump(exclude={"save_every_s"}), sort_keys=True)
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(fields).data)
    digest.update(np.ascontiguousarray(labels.astype(np.int64)).data)
    return digest.hexdigest()


def embedding_width(backbone: nn.Module) -> int:
    """Return the length of the embedding; some architectures answer more numbers than ``num_features`` says."""
    return int(getattr(backbone, "head_hidden_size", 0) or backbone.num_features)


def _train(
    run: _Run,
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
        chosen = choose_rows(len(fields), recipe.batch_size, run.step, recipe.seed)
        batch = torch.from_numpy(np.ascontiguousarray(fields[chosen])).to(device)
        target = torch.from_numpy(labels[chosen].astype(np.int64)).to(device)
        run.right.append(_take_step(run, batch, target, recipe))
        run.step += 1
        if time.monotonic() - saved > recipe.save_every_s and run.step < recipe.steps:
            snapshots.save_step(run.step, run.snapshot())
            saved = time.monotonic()
        if progress is not None:
            progress(run.step, recipe.steps)


def choose_rows(count: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Return the rows of batch ``step``: consecutive pieces of one shuffle per pass over the samples."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    passes = places // count
    rows = np.empty(batch_size, np.int64)
    for number in np.unique(passes):
        order = np.random.default_rng([seed, int(number)]).permutation(count)
        rows[passes == number] = order[places[passes == number] % count]
    return np.sort(rows)


def seed_step(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Return the generator of one step's views; no two steps share one."""
    return torch.Generator(device=device).manual_seed(seed * 1_000_003 + step)


def _take_step(run: _Run, fields: Tensor, target: Tensor, recipe: RecipeConfig) -> float:
    """Draw views, move the weights once, follow with the average; return the share of views named rightly."""
    generator = seed_step(recipe.seed, run.step, fields.device)
    # Neighbours in a sorted batch share their class; blending wants strangers.
    order = torch.randperm(len(fields), generator=generator, device=fields.device)
    fields, target = fields[order], target[order]
    views = make_views(fields, recipe.train_px, recipe.views, generator)
    for group in run.optimiser.param_groups:
        group["lr"] = recipe.learning_rate * rate_factor(run.step, recipe.steps)
    with mixed_precision(fields.device):
        logits = run.network(views.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), target, label_smoothing=recipe.label_smoothing)
    if not math.isfinite(loss.item()):
        raise PretrainingDiverged(
            f"the loss became {loss.item()} at step {run.step} of {recipe.steps}; lower learning_rate "
            f"(now {recipe.learning_rate}) and start with an empty state folder."
        )
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 5.0)
    run.optimiser.step()
    _follow(run, recipe.average_decay)
    return float((logits.argmax(1) == target).float().mean())


def rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak rate: a linear rise over a twentieth of the steps, then half a cosine."""
    rise = max(1, steps // 20)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@torch.no_grad()
def _follow(run: _Run, decay: float) -> None:
    """Move the average towards the weights, faster in the first steps; counters are copied."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    for name, value in run.network.state_dict().items():
        if value.is_floating_point():
            run.average[name].lerp_(value, 1 - decay)
        else:
            run.average[name].copy_(value)


def _finish(
    run: _Run, fields: np.ndarray, recipe: RecipeConfig, into: Path, device: torch.device
) -> PretrainedBackbone:
    """Settle the averaged network and write its body."""
    run.network.load_state_dict(run.average)
    _settle_batchnorms(run.network, fields, recipe, device)
    written = write_backbone(run.network[0], recipe.architecture, recipe.model_args, recipe.tag, recipe.input_px, into)
    recent = run.right[-max(1, recipe.steps // 10) :]
    return PretrainedBackbone(written, steps=run.step, accuracy=float(np.mean(recent)))


@torch.no_grad()
def _settle_batchnorms(network: nn.Module, fields: np.ndarray, recipe: RecipeConfig, device: torch.device) -> None:
    """Re-estimate BatchNorm statistics under the averaged weights, on up to 32 batches of fresh views at input size."""
    layers = list_batchnorms(network)
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch then keeps the plain average over the batches
    network.train()
    for step in range(min(32, recipe.steps)):
        rows = choose_rows(len(fields), recipe.batch_size, step, recipe.seed + 1)
        generator = torch.Generator(device=device).manual_seed(step)
        batch = torch.from_numpy(np.ascontiguousarray(fields[rows])).to(device)
        network(make_views(batch, recipe.input_px, recipe.views, generator))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()

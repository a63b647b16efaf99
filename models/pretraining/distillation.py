"""Features of a larger backbone learnt by a small one on rendered scenes, resumable, ending in a hub-format folder.

First every stage learns alone, from the teacher's standardised features before it to those after it: shallow problems,
solved in a few hundred steps each. Then the whole network learns end to end to give the teacher's features at every
stage. The learner starts from random weights; what the teacher answers is all that it takes from it.

Sources: Hinton et al. 2015, arXiv 1503.02531; Romero et al. 2015 (hints), arXiv 1412.6550.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from regraft.models.backbones.network import WEIGHTS_FILE, build_architecture, read_input
from regraft.models.backbones.writer import WrittenBackbone, write_backbone
from regraft.models.compute.device import choose_device, deterministic_kernels, limit_threads, place_module
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.frozen_pass import normalization_tensors
from regraft.models.pretraining.mobilenet_stages import (
    StageScale,
    build_teacher,
    check_stages,
    measure_scales,
    split_stages,
)
from regraft.models.pretraining.scenes import SceneConfig, look_again, make_scenes
from regraft.models.pretraining.state import (
    LearningConfig,
    LearningState,
    check_loss,
    list_batch_rows,
    schedule_rate,
    seed_step,
    settle_batchnorms,
)
from regraft.serving.files.durable import hash_file

logger = logging.getLogger(__name__)

SCALE_BATCHES = 16
"""Batches of scenes on which the teacher's scales are measured; BatchNorm is settled at the end on twice as many."""
CHUNK = 64  # scenes that pass through the teacher at once outside training


class DistillationConfig(LearningConfig, frozen=True):
    """What learns and how. The same values, fields, teacher and threads give the same bytes on a CPU."""

    architecture: str = "mobilenetv2_100"
    """A timm architecture of the MobileNet family; its stages must have the shapes of the teacher's."""
    model_args: dict[str, float | int] = Field({"depth_multiplier": 0.66})
    """Arguments of the architecture, such as fewer blocks a stage."""
    tag: str = Field("distilled_v1", pattern=r"^[a-z0-9_]+$")
    """Second half of the backbone's name."""
    input_px: int = Field(160, ge=32, le=512)
    """Image side that the finished backbone asks for."""
    train_px: int = Field(96, ge=32, le=512, multiple_of=32)
    """Side of the scenes."""
    scenes: int = Field(6144, ge=2)
    """Scenes rendered once and looked at again and again."""
    stage_steps: int = Field(2000, ge=1)
    """Optimiser steps of every stage alone."""
    stage_rate: float = Field(8e-3, gt=0)
    """Peak rate of AdamW while the stages learn alone."""
    steps: int = Field(1400, ge=1)
    """Optimiser steps of the whole network after that; in the last fifth the rate falls to nothing."""
    rate: float = Field(2e-3, gt=0)
    """Peak rate of AdamW while the whole network learns."""
    rate_horizon: int = Field(2600, ge=1)
    """Steps in which the cosine of that rate would end; ``steps`` may stop it earlier, or stretch it."""
    batch_size: int = Field(32, ge=2)
    """Scenes per step."""
    weight_decay: float = Field(1e-3, ge=0)
    """Decay of kernels and matrices."""
    average_decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the running average of the whole network's weights; the average is what ships."""
    look: SceneConfig = SceneConfig()
    """What stands in the scenes."""


@dataclass(frozen=True, slots=True)
class DistilledBackbone:
    """What a distillation left."""

    backbone: WrittenBackbone
    steps: int
    unexplained: float
    """Share of the variance of the teacher's last feature map that is missed, over the last tenth of ``steps``."""
    alone: tuple[float, ...]
    """The same of every stage that learnt alone, over the last tenth of its steps."""


def distil_backbone(
    fields: np.ndarray,
    teacher: Path,
    config: DistillationConfig,
    *,
    state: Path,
    into: Path,
    progress: Callable[[int, int], None] | None = None,
) -> DistilledBackbone:
    """Learn the teacher's features and write ``<into>/<architecture>.<tag>/``; a killed run continues from ``state``.

    Args:
        fields: uint8 ``(N, S, S)``: what the scenes are made of.
        teacher: Folder of a backbone in the hub's format, under Apache-2.0.
        config: Architecture and training.
        state: Folder of this run's snapshots; removed when the backbone is written.
        into: Where the backbone's folder is put, replacing one of the same name.
        progress: Called with (steps done, steps).

    Raises:
        ValueError: If the fields are not pictures of one grey channel.
        BackboneError: If the teacher cannot be read, has another licence or has stages of other shapes.
        PretrainingDiverged: If the loss is not finite.
        DeviceError: If the device is not there.
    """
    if fields.ndim != 3 or fields.dtype != np.uint8 or not len(fields):
        raise ValueError(
            f"fields must be uint8 (N, S, S), are {fields.dtype} {fields.shape}; render with data.synthetic.formula"
        )
    device = choose_device(config.device)
    with limit_threads(config.threads), deterministic_kernels():
        run = _Run(fields, teacher, config, device)
        snapshots = ResumeFolder(state, fingerprint_run(fields, teacher, config))
        snapshot = snapshots.load_latest_step()
        if snapshot is not None:
            run.state.restore(snapshot)
        _train(run, snapshots, progress)
        finished = _finish(run, into)
    snapshots.clear()
    logger.info("distillation done name=%s unexplained=%.3f", finished.backbone.name, finished.unexplained)
    return finished


def fingerprint_run(fields: np.ndarray, teacher: Path, config: DistillationConfig) -> str:
    """Return the SHA-256 of all that the finished weights depend on."""
    text = config.describe() + hash_file(teacher / WEIGHTS_FILE)
    digest = hashlib.sha256(text.encode())
    digest.update(np.ascontiguousarray(fields).data)
    return digest.hexdigest()


class _Run:
    """Teacher and learner in stages, the scenes, and the learner's state."""

    def __init__(self, fields: np.ndarray, teacher: Path, config: DistillationConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        knowing = build_teacher(teacher)
        learner = place_module(build_learner(teacher, knowing, config), device)
        self.teacher, self.learner = split_stages(place_module(knowing, device)), split_stages(learner)
        self.mean, self.std = normalization_tensors(read_input(teacher).normalization, device)
        self.state = LearningState(learner, rate=config.rate, decay=config.weight_decay)
        self.scenes = render_scenes(fields, config, device)
        sample = [self.prepare(self.look(step)) for step in range(SCALE_BATCHES)]
        self.scales = measure_scales(self.teacher, sample)

    @property
    def total(self) -> int:
        """Return the steps of all stages and of the whole network."""
        return len(self.learner) * self.config.stage_steps + self.config.steps

    def look(self, step: int) -> Tensor:
        """Return the views of whole-network step ``step``, on the scale -1..1."""
        rows = list_batch_rows(len(self.scenes), self.config.batch_size, step, self.config.seed)
        views = look_again(self.scenes[rows].to(self.device), seed_step(self.config.seed, step, self.device))
        return views.contiguous(memory_format=torch.channels_last)

    def prepare(self, views: Tensor) -> Tensor:
        """Return views on -1..1 as the teacher wants them."""
        return (views * 0.5 + 0.5 - self.mean) / self.std


def build_learner(folder: Path, teacher: nn.Module, config: DistillationConfig) -> nn.Module:
    """Return the network that is to learn, its weights drawn from the seed.

    Raises:
        BackboneError: If it or the teacher from ``folder`` cannot be cut into stages or these do not fit together.
    """
    torch.manual_seed(config.seed)
    learner = build_architecture({"architecture": config.architecture, "model_args": config.model_args})
    stages = split_stages(teacher), split_stages(learner)
    check_stages(*stages, config.train_px, f"{folder} cannot teach {config.architecture}")
    return learner


@torch.no_grad()
def render_scenes(fields: np.ndarray, config: DistillationConfig, device: torch.device) -> Tensor:
    """Return ``config.scenes`` scenes, uint8 ``(N, 3, S, S)`` on the CPU."""
    scenes = torch.empty((config.scenes, 3, config.train_px, config.train_px), dtype=torch.uint8)
    for batch, first in enumerate(range(0, config.scenes, config.batch_size)):
        rows = list_batch_rows(len(fields), config.batch_size, batch, config.seed)
        chosen = torch.from_numpy(np.ascontiguousarray(fields[rows])).to(device)
        drawn = make_scenes(chosen, config.train_px, config.look, seed_step(config.seed + 1, batch, device))
        kept = scenes[first : first + config.batch_size]
        kept.copy_(((drawn + 1) * 127.5).round()[: len(kept)])
    return scenes


def _train(run: _Run, snapshots: ResumeFolder, progress: Callable[[int, int], None] | None) -> None:
    """Take the remaining steps, with a snapshot every ``save_every_s`` seconds."""
    saved, state, config = time.monotonic(), run.state, run.config
    alone = len(run.learner) * config.stage_steps
    features: list[Tensor] = []  # before and after the stage that is learning, standardised
    known = -1
    while state.step < run.total:
        stage = state.step // config.stage_steps
        if state.step < alone:
            while known < stage:
                features, known = _advance(run, features, known + 1), known + 1
            figure = _teach_stage(run, features, stage, state.step % config.stage_steps)
        else:
            features = []
            figure = _teach_network(run, state.step - alone)
        state.figures.append(figure)
        state.step += 1
        if time.monotonic() - saved > config.save_every_s and state.step < run.total:
            snapshots.save_step(state.step, state.snapshot())
            saved = time.monotonic()
        if progress is not None:
            progress(state.step, run.total)


@torch.no_grad()
def _advance(run: _Run, features: list[Tensor], stage: int) -> list[Tensor]:
    """Return the standardised features of all scenes before and after ``stage``, half precision, on the CPU."""
    before = features[1] if features else run.scenes
    after = []
    for first in range(0, len(before), CHUNK):
        chunk = before[first : first + CHUNK].to(run.device)
        given = run.scales[stage - 1].restore(chunk.float()) if stage else run.prepare(chunk.float() / 127.5 - 1)
        answer = run.teacher[stage](given.contiguous(memory_format=torch.channels_last))
        after.append(run.scales[stage].standardise(answer).half().cpu())
    return [before, torch.cat(after)]


def _teach_stage(run: _Run, features: list[Tensor], stage: int, step: int) -> float:
    """Move one stage's weights once, on patches of the features around it; return the unexplained share."""
    config, (before, after) = run.config, features
    rows = torch.from_numpy(list_batch_rows(len(before), config.batch_size, step, config.seed + 2 + stage))
    full, ratio = after.shape[-1], before.shape[-1] // after.shape[-1]
    side = min(full, max(6, full // 3))
    generator = seed_step(config.seed + 2 + stage, step, torch.device("cpu"))
    top, left = torch.randint(0, full - side + 1, (2,), generator=generator).tolist()
    given = before[rows, :, top * ratio : (top + side) * ratio, left * ratio : (left + side) * ratio].to(run.device)
    wanted = after[rows, :, top : top + side, left : left + side].to(run.device).float()
    given = given.float() if stage else given.float() / 127.5 - 1
    module = run.learner[stage].train()
    missed = module(given.contiguous(memory_format=torch.channels_last)) - wanted
    if side < full:  # the patch's rim was padded, the whole map's was not
        missed = missed[..., 1:-1, 1:-1]
    loss = (missed**2 * run.scales[stage].weight).mean()
    check_loss(loss, step, config.stage_steps, config.stage_rate)
    run.state.descend(loss, config.stage_rate * schedule_rate(step, config.stage_steps))
    return loss.item()


def _teach_network(run: _Run, step: int) -> float:
    """Move all weights once towards the teacher's features at every stage; return the share missed of the last map."""
    config, answer = run.config, run.look(step + SCALE_BATCHES)
    given, losses = run.prepare(answer), []
    for teacher, learner, scale in zip(run.teacher, run.learner, run.scales, strict=True):
        with torch.no_grad():
            given = teacher(given)
        answer = learner.train()(answer)
        losses.append(((answer - scale.standardise(given)) ** 2 * scale.weight).mean())
    losses.append(_miss_embedding(answer, given, run.scales[-1]))
    loss = torch.stack(losses).sum()
    check_loss(loss, step, config.steps, config.rate)
    ending = min(1.0, (config.steps - step) / max(1, config.steps // 5))
    cosine = schedule_rate(step, max(config.steps, config.rate_horizon))
    run.state.descend(loss, config.rate * cosine * ending)
    run.state.follow(config.average_decay, step)
    return losses[-2].item()


def _miss_embedding(answer: Tensor, given: Tensor, scale: StageScale) -> Tensor:
    """Return the squared error of the pooled features over their own variance in the batch."""
    pooled = given.mean((2, 3))
    spread = torch.maximum(pooled.std(0), 0.1 / scale.weight.flatten().sqrt())
    return (((answer.mean((2, 3)) - pooled) / spread) ** 2).mean()


def _finish(run: _Run, into: Path) -> DistilledBackbone:
    """Settle the averaged network on the scenes at input size and write it."""
    config, learner = run.config, run.state.network
    learner.load_state_dict(run.state.average)
    looks = (run.look(run.total + step) for step in range(2 * SCALE_BATCHES))
    size = (config.input_px, config.input_px)
    settle_batchnorms(learner, (nn.functional.interpolate(v, size, mode="bilinear") for v in looks))
    written = write_backbone(learner, config.architecture, config.model_args, config.tag, config.input_px, into)
    span, figures = config.stage_steps, run.state.figures
    alone = tuple(_average_tail(figures[: span * (stage + 1)], span) for stage in range(len(run.learner)))
    missed = _average_tail(figures, config.steps)
    return DistilledBackbone(written, steps=run.state.step, unexplained=missed, alone=alone)


def _average_tail(figures: list[float], steps: int) -> float:
    """Return the mean over the last tenth of ``steps``."""
    return float(np.mean(figures[-max(1, steps // 10) :]))

"""The settings of fine-tuning, and the plan that they become for one network and its images."""

import torch
from pydantic import BaseModel, Field

from regraft.models.backbones.split import cut_backbone
from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.budget import (
    NOMINAL_SPEEDS,
    ImageCounts,
    Speed,
    TrainingLimits,
    TrainingPlan,
    plan_training,
)
from regraft.models.compute.cost import count_work, group_by_depth
from regraft.models.compute.device import DeviceName
from regraft.models.heads.data import TrainingData
from regraft.models.heads.head_views import HeadConfig
from regraft.models.heads.linear_start import StartConfig
from regraft.models.training.optimizer import LoopConfig

HALF_BYTES = 2
"""Of one kept activation."""


class FinetuneConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Budget and recipe of the finetune stage."""

    budget_s: float = Field(150.0, gt=0)
    """Seconds the stage should take on the nominal machine; turned into steps by counted work, never by the clock.
    The clock is only a fuse, see ``stop_s``."""
    image_s: float = Field(0.35, gt=0)
    """Seconds of that budget that one training image is worth: few images are not trained on for long."""
    stop_s: float | None = Field(None, gt=0)
    """Seconds on the clock after which fine-tuning ends with the epochs that it has; by default three times the budget,
    and five minutes at least."""
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
    views: int = Field(4, ge=0)
    """Changed views of each training image whose activations behind the frozen layers are kept; 0 keeps none."""
    activations_gib: float = Field(2.0, gt=0)
    """Disk that kept activations may take; fewer views, or none, are kept where they would need more."""
    head: HeadConfig = HeadConfig()
    """Views that the linear head is fitted on."""
    loop: LoopConfig = LoopConfig()
    """Rates, regularisation and augmentation."""
    seed: int = Field(0, ge=0)
    """Of order, augmentation and dropout."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""

    @property
    def start(self) -> StartConfig:
        """Return how the linear head is fitted that training starts from."""
        return StartConfig(self.head, self.loop.rare_weight, self.loop.augment.flip_horizontal)

    def without_mirrors(self, mirrors: tuple[bool, bool] | None) -> "FinetuneConfig":
        """Return the same, without those mirrorings that were found to change a class."""
        if mirrors is None:
            return self
        augment = self.loop.augment
        safe = {
            "flip_horizontal": augment.flip_horizontal and mirrors[0],
            "flip_vertical": augment.flip_vertical and mirrors[1],
        }
        loop = self.loop.model_copy(update={"augment": augment.model_copy(update=safe)})
        return self.model_copy(update={"loop": loop})


def make_plan(
    classifier: Classifier,
    data: TrainingData,
    size_px: int,
    config: FinetuneConfig,
    device: torch.device,
    adapted: int = 0,
) -> TrainingPlan:
    """Return the plan that fits the budget on the nominal machine of this kind of device."""
    nominal = NOMINAL_SPEEDS[device.type]
    speed = Speed(config.nominal_gflops or nominal.gflops, config.nominal_gigabytes or nominal.gigabytes)
    backbone = classifier.backbone.eval()

    def views_for(frozen: int) -> int:
        cut = cut_backbone(backbone, frozen, size_px)
        if cut is None or cut.frozen < frozen:
            return 0
        rows = config.activations_gib * 2**30 / (HALF_BYTES * cut.values) - len(data.validation)
        return max(0, min(config.views, int(rows // len(data.train))))

    return plan_training(
        count_work(backbone, group_by_depth(backbone), size_px),
        speed,
        ImageCounts(len(data.train), len(data.validation), adapted),
        TrainingLimits(
            budget_s=min(config.budget_s, config.image_s * len(data.train)),
            batch_size=config.batch_size,
            min_epochs=config.min_epochs,
            max_epochs=config.max_epochs,
        ),
        views_for,
    )

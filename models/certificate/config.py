"""The settings of the certificate, and the recipe of training that they become for one condition."""

from pydantic import BaseModel, Field

from regraft.models.compute.device import DeviceName
from regraft.models.training.config import FinetuneConfig
from regraft.models.training.optimizer import LoopConfig

FEWEST_DRAWS = 2
"""Draws before the first look: one alone shows nothing of how draws differ."""


class CertifyConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How the certificate is measured: images, draws, budgets, and the gain that counts."""

    draws: int = Field(3, ge=2)
    """Times that labelled images are drawn, each with its own order and its own random network. Help that is
    certain at 99 % after two is the last word; what is left is then drawn for the learning curve alone."""
    max_images: int = Field(200, ge=8)
    """Labelled images of a draw at most; never more than four in five of those known."""
    max_test: int = Field(200, ge=8)
    """Test images at most; all draws share them."""
    size_px: int = Field(96, ge=16)
    """Side at which convolutional networks are compared, where they want more; the same for all conditions.
    Transformers keep theirs."""
    trial_s: float = Field(2.0, gt=0)
    """Seconds on the nominal machine, counted, that the pretrained weights are trained for on each draw."""
    scratch_factor: float = Field(3.0, ge=1)
    """Times as long that training from scratch gets: it needs three to five times the steps."""
    max_epochs: int = Field(12, ge=1)
    """Passes over a draw at most, however small the network; from scratch as many times more."""
    scratch_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of all layers from scratch."""
    sizes: tuple[float, ...] = Field((0.25, 0.5, 1.0), min_length=1)
    """Shares of a draw at which the learning curve is measured, ascending; budgets shrink alike."""
    smallest_gain: float = Field(0.01, ge=0, le=1)
    """Difference in balanced accuracy that counts; the interval must lie beyond it."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Two-sided coverage of the intervals."""
    loop: LoopConfig = LoopConfig()
    """Rates, regularisation and augmentation of the training trials."""
    seed: int = Field(0, ge=0)
    """Of draws, random networks, order and augmentation."""
    device: DeviceName = "auto"
    """Where to compute."""
    threads: int = Field(2, ge=1)
    """CPU threads; part of the recipe, because sums are split by thread."""


def write_recipe(condition: str, size: int, n: int, draw: int, config: CertifyConfig) -> FinetuneConfig:
    """Return the recipe of a condition's training trial: from scratch longer, at one rate, and all layers."""
    factor, loop, least = 1.0, config.loop, 3
    if condition == "scratch":
        factor, least = config.scratch_factor, 1
        loop = loop.model_copy(update={"backbone_lr": config.scratch_lr, "layer_decay": 1.0})
    budget_s = config.trial_s * factor * size / n
    return FinetuneConfig(
        budget_s=budget_s,
        image_s=budget_s,
        max_epochs=round(config.max_epochs * factor),
        min_epochs=least,
        views=0,
        loop=loop,
        seed=config.seed * 1000 + draw,
        device=config.device,
        threads=config.threads,
    )

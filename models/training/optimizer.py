"""The optimiser of fine-tuning: which weights move and at which rate, and its state as named tensors."""

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.cost import group_by_depth
from regraft.models.compute.device import is_convolutional
from regraft.models.training.augmentation import AugmentConfig


class LoopConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How fine-tuning moves the weights."""

    backbone_lr: float | None = Field(None, gt=0)
    """Peak learning rate of the deepest backbone group; by default 3e-4 for convolutions and 5e-5 for others."""
    head_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the head."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """Factor on the rate per depth group towards the input; by default 0.9 for convolutions and 0.75 for others."""
    weight_decay: float = Field(0.02, ge=0)
    """AdamW's decay of matrices and kernels; biases and norms have none."""
    warmup_share: float = Field(0.1, ge=0, le=1)
    """Share of the steps in which the rate rises."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    """Share of the target spread over all classes."""
    rare_weight: float = Field(0.0, ge=0, le=1)
    """How much more an image of a rare class counts: 0 weighs images alike, 1 classes alike. More rare defects are
    found and more good parts called defects; probabilities are then those of classes more alike in size."""
    augment: AugmentConfig = AugmentConfig()
    """Changes of the training images."""


def freeze_groups(classifier: Classifier, frozen: int) -> dict[str, int]:
    """Stop gradients of the first ``frozen`` depth groups; return the depth group of each parameter."""
    groups = group_by_depth(classifier.backbone)
    for name, parameter in classifier.backbone.named_parameters():
        parameter.requires_grad_(groups[name] >= frozen)
    return groups


def build_optimizer(classifier: Classifier, frozen: int, config: LoopConfig) -> torch.optim.AdamW:
    """Freeze ``frozen`` depth groups; return AdamW over the rest, one rate per group, biases and norms not decayed."""
    groups = freeze_groups(classifier, frozen)
    # A transformer forgets in one step what a convolutional network shrugs off.
    default_lr, default_decay = (3e-4, 0.9) if is_convolutional(classifier.backbone) else (5e-5, 0.75)
    peak_lr, decay = config.backbone_lr or default_lr, config.layer_decay or default_decay
    deepest = max(groups.values(), default=0)
    # One group for each pair of rate and decay: a fused step is one kernel a group, not one a parameter.
    parts: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad:
            group = groups.get(name.removeprefix("backbone."))
            peak = config.head_lr if group is None else peak_lr * decay ** (deepest - group)
            parts.setdefault((peak, config.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    merged = [
        {"params": members, "lr": peak, "peak": peak, "weight_decay": shrink}
        for (peak, shrink), members in parts.items()
    ]
    return torch.optim.AdamW(merged, foreach=False, fused=classifier.head.weight.is_cuda)


def pack_optimizer(optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Return the optimiser's tensors by ``<parameter number>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def unpack_optimizer(optimizer: torch.optim.AdamW, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser back what ``pack_optimizer`` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

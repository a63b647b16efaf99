"""A backbone by depth: which group each parameter belongs to, counted from the input, and what each group costs.

Costs are counted (operations, bytes of activations), never timed, so that a plan made from them is the same everywhere.
"""

from dataclasses import dataclass

import regraft.models.compute.torchvision_gap
import regraft.serving.silence  # noqa: F401  before timm imports the hub's client, which reads its switches then

# isort: split
import torch
from timm.models._manipulate import group_parameters
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class GroupWork:
    """What one depth group costs for one image going forward: billions of operations, and of bytes written."""

    gflops: float
    gigabytes: float


def group_by_depth(backbone: nn.Module) -> dict[str, int]:
    """Return the depth group of every parameter by name; 0 is nearest to the input, without gaps.

    timm's own grouping is used where the architecture has one, else the order of the direct children.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is not None:
        groups = group_parameters(backbone, matcher(coarse=False), reverse=True)
    else:
        children = {name: i for i, (name, _) in enumerate(backbone.named_children())}
        groups = {name: children.get(name.split(".")[0], 0) for name, _ in backbone.named_parameters()}
    ranks = {group: rank for rank, group in enumerate(sorted(set(groups.values())))}
    return {name: ranks[groups[name]] for name, _ in backbone.named_parameters()}


def group_modules(backbone: nn.Module, groups: dict[str, int]) -> dict[str, int]:
    """Return the depth group of every module that holds parameters itself, by module name."""
    found: dict[str, int] = {}
    for name, group in groups.items():
        found.setdefault(name.rpartition(".")[0], group)
    return found


def count_work(backbone: nn.Module, groups: dict[str, int], size_px: int) -> list[GroupWork]:
    """Return what each depth group costs per image, in order of depth.

    One image of zeros goes through; what happens between two leaf modules is charged to the second, and a leaf
    without parameters belongs where the one before it does.

    Args:
        backbone: On the CPU or a device, eval mode.
        groups: As ``group_by_depth`` gives them.
        size_px: Side of the image.
    """
    owners = group_modules(backbone, groups)
    count = max(groups.values(), default=0) + 1
    flops, bytes_written = [0.0] * count, [0.0] * count
    seen = {"flops": 0, "group": 0}

    def charge(name: str, output: object) -> None:
        seen["group"] = owners.get(name, seen["group"])
        total = counter.get_total_flops()
        flops[seen["group"]] += total - seen["flops"]
        seen["flops"] = total
        if isinstance(output, torch.Tensor):
            bytes_written[seen["group"]] += 4 * output.numel()

    leaves = [(name, module) for name, module in backbone.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(lambda _m, _i, out, name=name: charge(name, out)) for name, module in leaves]
    device = next(backbone.parameters()).device
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, size_px, size_px, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return [GroupWork(f / 1e9, b / 1e9) for f, b in zip(flops, bytes_written, strict=True)]

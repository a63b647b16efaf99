"""A network of the MobileNet family cut into stages, and the numbers that make two networks' stages comparable."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from regraft.models.backbones.licences import read_stated
from regraft.models.backbones.network import BackboneError, build_backbone, read_config


@dataclass(frozen=True, slots=True)
class StageScale:
    """How a stage's answer is standardised: mean and spread per channel, each ``(1, C, 1, 1)``.

    The last stage ends with an activation and is the embedding's source: it stays as it is, and ``weight``
    (one over the squared spread) puts its errors on the scale of the others.
    """

    mean: Tensor
    spread: Tensor
    weight: Tensor

    def standardise(self, answer: Tensor) -> Tensor:
        """Return what the learning network is to answer."""
        return (answer - self.mean) / self.spread

    def restore(self, standard: Tensor) -> Tensor:
        """Return the answer that ``standardise`` was given."""
        return standard * self.spread + self.mean


def split_stages(network: nn.Module) -> list[nn.Module]:
    """Return the network's stages, in order; called one after the other they give its last feature map.

    Raises:
        BackboneError: If the network is not built like timm's MobileNets and EfficientNets.
    """
    parts = ("conv_stem", "bn1", "blocks", "conv_head", "bn2")
    if any(not isinstance(getattr(network, part, None), nn.Module) for part in parts):
        raise BackboneError(
            f"{type(network).__name__} cannot be cut into stages: it lacks one of {', '.join(parts)}. "
            "Distillation wants timm's MobileNetV2 or EfficientNet architectures, for teacher and learner."
        )
    stem, *middle = network.blocks
    return [
        nn.Sequential(network.conv_stem, network.bn1, stem),
        *middle,
        nn.Sequential(network.conv_head, network.bn2),
    ]


def build_teacher(folder: Path) -> nn.Module:
    """Return the backbone of ``folder``, frozen.

    Raises:
        BackboneError: If it cannot be read or its config does not state Apache-2.0, under which the learner is written.
    """
    licence = str(read_config(folder).get("pretrained_cfg", {}).get("license"))
    if read_stated(licence).spdx != "Apache-2.0":
        raise BackboneError(
            f"{folder} states the licence {licence!r}; a teacher must be under Apache-2.0, as what it teaches will be. "
            "If that is its licence, say so in pretrained_cfg.license of its config.json."
        )
    return build_backbone(folder).requires_grad_(requires_grad=False)


def check_stages(teacher: list[nn.Module], learner: list[nn.Module], size_px: int, complaint: str) -> None:
    """Refuse stages that answer in different shapes to pictures of one size.

    Raises:
        BackboneError: With ``complaint`` and both lists of shapes.
    """
    given, wanted = list_shapes(teacher, size_px), list_shapes(learner, size_px)
    if given != wanted:
        raise BackboneError(
            f"{complaint}: its stages answer {given}, the learner's {wanted}. "
            "Take a teacher and an architecture with the same stages."
        )


@torch.no_grad()
def list_shapes(stages: list[nn.Module], size_px: int) -> list[tuple[int, ...]]:
    """Return the shape ``(C, H, W)`` of every stage's answer to a square picture; changes no statistics."""
    answer, shapes = torch.zeros(1, 3, size_px, size_px), []
    for stage in stages:
        answer = stage.eval()(answer)
        shapes.append(tuple(answer.shape[1:]))
    return shapes


@torch.no_grad()
def measure_scales(stages: list[nn.Module], batches: list[Tensor]) -> list[StageScale]:
    """Return the scale of every stage's answers over the batches of pictures.

    Channels that hardly vary get a tenth of the stage's median spread, or their noise would outweigh the rest.
    """
    scales = []
    for index, stage in enumerate(stages):
        batches = [stage(batch) for batch in batches]
        answers = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], 1)
        mean, spread = answers.mean(1).view(1, -1, 1, 1), answers.std(1).view(1, -1, 1, 1)
        spread = torch.maximum(spread, 0.1 * spread.median()).clamp(min=1e-6)
        if index == len(stages) - 1:
            scales.append(StageScale(torch.zeros_like(mean), torch.ones_like(spread), spread**-2))
        else:
            scales.append(StageScale(mean, spread, torch.ones_like(spread)))
    return scales

"""A backbone on disk, in the hub's folder format (``config.json`` + ``model.safetensors``), and the network it becomes.

Where the folder comes from is in ``models/backbones/hub.py``.
"""

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regraft.models.compute.torchvision_gap
import regraft.serving.silence  # noqa: F401  before timm imports the hub's client, which reads its switches then

# isort: split
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class BackboneError(RuntimeError):
    """A backbone cannot be had or cannot be trusted: absent, damaged, altered, incomplete, not safetensors."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Normalization:
    """What is subtracted from and divided out of each colour channel, on the scale 0-1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class BackboneInput:
    """What a backbone was trained to look at.

    ``num_features`` is the width before pooling as its config states it; some architectures answer a wider embedding.
    """

    size_px: int
    interpolation: str
    crop_share: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_features: int

    @property
    def normalization(self) -> Normalization:
        """Return the colour normalisation."""
        return Normalization(self.mean, self.std)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the parsed ``config.json`` of a backbone folder.

    Raises:
        BackboneError: If it is absent, not JSON or names no architecture.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise BackboneError(
            f"{path} cannot be read as a backbone's config ({exc}). Delete the folder and retrieve it anew."
        ) from exc
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise BackboneError(f"{path} names no architecture; a timm config has a key of that name.")
    return config


def read_input(folder: Path) -> BackboneInput:
    """Return input size, interpolation, crop and normalisation from a backbone's config."""
    config = read_config(folder)
    pretrained = config.get("pretrained_cfg", {})
    return BackboneInput(
        size_px=int(pretrained.get("input_size", (3, 224, 224))[-1]),
        interpolation=str(pretrained.get("interpolation", "bicubic")),
        crop_share=float(pretrained.get("crop_pct", 0.875)),
        mean=tuple(map(float, pretrained.get("mean", (0.485, 0.456, 0.406)))),
        std=tuple(map(float, pretrained.get("std", (0.229, 0.224, 0.225)))),
        num_features=int(config.get("num_features", 0)),
    )


def build_architecture(config: dict[str, Any]) -> nn.Module:
    """Build the network that ``config`` describes, without classifier and with arbitrary weights.

    Raises:
        BackboneError: If this timm does not know the architecture or its arguments.
    """
    arguments = dict(config.get("model_args", {})) | {"num_classes": 0}
    try:
        return timm.create_model(config["architecture"], pretrained=False, **arguments)
    except (RuntimeError, TypeError, ValueError) as exc:
        raise BackboneError(
            f"timm {timm.__version__} cannot build architecture {config['architecture']!r} with {arguments}: {exc}"
        ) from exc


def build_backbone(folder: Path) -> nn.Module:
    """Build the pretrained network of ``folder``: pixels ``(B, 3, S, S)`` to embedding ``(B, D)``, float32, eval mode.

    Raises:
        BackboneError: If the weights cannot be read or do not fit the architecture exactly; nothing stays random.
    """
    config = read_config(folder)
    backbone = build_architecture(config)
    weights = read_weights(folder / WEIGHTS_FILE)
    weights = fit_weights(weights, backbone, config)
    problems = compare_weights(weights, backbone.state_dict())
    if problems:
        raise BackboneError(f"{folder / WEIGHTS_FILE} does not fit {config['architecture']}: " + "; ".join(problems))
    backbone.load_state_dict(weights, strict=True)
    return backbone.eval()


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, half precision widened to float32.

    Raises:
        BackboneError: If the file is absent or not safetensors.
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as exc:
        raise BackboneError(
            f"{path} cannot be read as safetensors ({exc}). Delete the folder and retrieve it anew."
        ) from exc
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}


def fit_weights(
    weights: dict[str, torch.Tensor], backbone: nn.Module, config: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Drop the classifier and, where names differ, let timm translate an older layout."""
    classifier = config.get("pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    wanted = backbone.state_dict()
    weights = {name: value for name, value in weights.items() if name in wanted or not name.startswith(prefixes)}
    # Batch counters are absent from some converted files; they matter to nothing we do.
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    weights = counters | weights
    if weights.keys() != wanted.keys():
        translate = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
        weights = translate(weights, backbone) if translate else weights
    return weights


def compare_weights(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> list[str]:
    """Return every disagreement of names and shapes in words; empty when the weights fit exactly."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    wrong = [n for n in sorted(wanted.keys() & found.keys()) if found[n].shape != wanted[n].shape]
    problems = [f"missing {len(missing)} tensors: {', '.join(missing[:5])}"] if missing else []
    problems += [f"{len(extra)} unknown tensors: {', '.join(extra[:5])}"] if extra else []
    problems += [f"{n} has shape {tuple(found[n].shape)}, needs {tuple(wanted[n].shape)}" for n in wrong[:5]]
    return problems

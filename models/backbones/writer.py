"""The finished backbone as a folder in the hub's format, its weights in half precision."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from regraft.models.backbones.network import CONFIG_FILE, WEIGHTS_FILE
from regraft.serving.files.durable import replace_folder, write_bytes, write_json


@dataclass(frozen=True, slots=True)
class WrittenBackbone:
    """A backbone's folder, its name ``arch.tag``, and the weights' SHA-256 and size."""

    folder: Path
    name: str
    sha256: str
    bytes: int


def write_backbone(
    backbone: nn.Module, architecture: str, model_args: dict[str, Any], tag: str, input_px: int, into: Path
) -> WrittenBackbone:
    """Write ``<into>/<architecture>.<tag>/`` (config and half-precision weights) in one rename.

    Args:
        backbone: Without classifier, trained on images on the scale -1..1.
        architecture: timm's name of it.
        model_args: What it was built with beside that.
        tag: Second half of the backbone's name.
        input_px: Image side that the config asks for.
        into: Folder of backbones; one of the same name is replaced.
    """
    weights = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    blob = save(weights)
    name = f"{architecture}.{tag}"
    temporary = into / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    write_bytes(temporary / WEIGHTS_FILE, blob)
    write_json(temporary / CONFIG_FILE, describe_backbone(backbone, architecture, model_args, tag, input_px))
    replace_folder(temporary, into / name)
    return WrittenBackbone(into / name, name, hashlib.sha256(blob).hexdigest(), len(blob))


def describe_backbone(
    backbone: nn.Module, architecture: str, model_args: dict[str, Any], tag: str, input_px: int
) -> dict[str, object]:
    """Return the ``config.json`` that timm and ``regraft.models.backbones.network`` read."""
    preset = backbone.pretrained_cfg
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": int(backbone.num_features),
        "global_pool": "avg",
        "model_args": model_args | {"num_classes": 0, "in_chans": 3, "global_pool": "avg"},
        "pretrained_cfg": {
            "tag": tag,
            "custom_load": False,
            "input_size": [3, input_px, input_px],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 0,
            "first_conv": preset.get("first_conv"),
            "classifier": preset.get("classifier"),
            "license": "Apache-2.0",
        },
    }

"""Tiny real backbones and images for the tests of models/."""

import json
from collections.abc import Callable
from pathlib import Path

import regraft.models.compute.torchvision_gap  # noqa: F401

# isort: split
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from regraft.models.backbones.hub import Backbone
from regraft.serving.files.durable import hash_file


@pytest.fixture(scope="session")
def make_backbone() -> Callable[..., Backbone]:
    """Return a function that writes a small network in the hub's folder format below a root."""

    def make(
        root: Path,
        name: str = "test_resnet.tiny",
        *,
        size_px: int = 32,
        half: bool = True,
        seed: int = 0,
        **args: object,
    ) -> Backbone:
        folder = root / name
        folder.mkdir(parents=True)
        torch.manual_seed(seed)
        architecture = name.split(".")[0]
        network = timm.create_model(architecture, num_classes=0, **args)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # timm starts some at zero, where no gradient passes
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        state = {k: v.half() if half and v.is_floating_point() else v for k, v in network.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        pretrained = {
            "tag": name.partition(".")[2],
            "input_size": [3, size_px, size_px],
            "interpolation": "bilinear",
            "crop_pct": 0.9,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "classifier": "fc" if "resnet" in name else "head",
            "license": "Apache-2.0",
        }
        config = {"architecture": architecture, "num_features": network.num_features, "pretrained_cfg": pretrained}
        (folder / "config.json").write_text(json.dumps(config | {"model_args": {"num_classes": 0, **args}}))
        digest = hash_file(folder / "model.safetensors")
        return Backbone(name, folder, digest, "Apache-2.0", "embedded", (folder / "model.safetensors").stat().st_size)

    return make


@pytest.fixture(scope="session")
def stripes() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return a function that draws noisy stripes: class k has its own direction and colour, ``(N, 32, 32, 3)``."""

    def draw(per_class: int, classes: int = 3, *, noise: float = 40.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        labels = np.tile(np.arange(classes), per_class)
        y, x = np.mgrid[:32, :32]
        images = np.empty((len(labels), 32, 32, 3))
        for i, label in enumerate(labels):
            angle = np.pi * label / classes
            wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.8 + generator.uniform(0, 6.28))
            images[i] = 128 + 60 * wave[..., None] + generator.normal(0, noise, (32, 32, 3))
        return images.clip(0, 255).astype(np.uint8), labels

    return draw

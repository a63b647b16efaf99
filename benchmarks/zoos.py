"""Two zoos for judging the selection: public backbones of mixed source, and small nets that differ in source only.

The second is pretrained here: one architecture, one recipe, eight sources (four data sets, four kinds of formula).
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import regraft.models.compute.torchvision_gap
import regraft.serving.silence  # noqa: F401  before timm imports the hub's client, which reads its switches then

# isort: split
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.pictures import list_pictures
from regraft.data.synthetic.formula import FAMILIES, FormulaConfig, render_bank
from regraft.models.backbones.network import CONFIG_FILE, WEIGHTS_FILE
from regraft.models.pretraining.supervised import RecipeConfig, pretrain_backbone

logger = logging.getLogger(__name__)

SOURCES = ("neu", "xsdd", "hymenoptera", "mednist")
FORMULAS = {
    "fractals": {"iterated_function": 40},
    "textures": {"spectral_noise": 14, "warped_bands": 13, "cells": 13},
    "objects": {"radial_contour": 20, "dead_leaves": 20},
    "lines": {"strokes": 14, "lattice": 13, "marks": 13},
}
FIELD_PX, TRAIN_PX = 80, 64


@dataclass(frozen=True, slots=True)
class Animal:
    """One backbone of a zoo; ``prior`` is what a static list would rank it by, ``source`` the data it must not meet."""

    folder: Path
    prior: float | None
    source: str | None


def shrink_backbone(folder: Path, into: Path, size_px: int) -> Path:
    """Write a copy of a backbone that asks for ``size_px``; a transformer's position embedding is resampled."""
    target = into / folder.name
    if (target / WEIGHTS_FILE).exists():
        return target
    config = json.loads((folder / CONFIG_FILE).read_text())
    config["pretrained_cfg"]["input_size"] = [3, size_px, size_px]
    target.mkdir(parents=True)
    if config["architecture"].startswith("vit"):
        config["model_args"] = config.get("model_args", {}) | {"img_size": size_px}
        network = timm.create_model(config["architecture"], num_classes=0, img_size=size_px)
        weights = load_file(folder / WEIGHTS_FILE)
        cls, grid = weights["pos_embed"][:, :1].float(), weights["pos_embed"][:, 1:].float()
        side, wanted = round(grid.shape[1] ** 0.5), size_px // network.patch_embed.patch_size[0]
        plane = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        plane = torch.nn.functional.interpolate(plane, (wanted, wanted), mode="bicubic", antialias=True)
        moved = plane.permute(0, 2, 3, 1).reshape(1, wanted * wanted, -1)
        weights["pos_embed"] = torch.cat([cls, moved], dim=1).to(weights["pos_embed"].dtype).contiguous()
        save_file(weights, target / WEIGHTS_FILE)
    else:
        shutil.copyfile(folder / WEIGHTS_FILE, target / WEIGHTS_FILE)
    (target / CONFIG_FILE).write_text(json.dumps(config))
    return target


def read_fields(root: Path, size_px: int, limit: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return grey images ``(N, S, S)`` uint8 of a folder per class and their labels; at most ``limit``."""
    files, classes = list_pictures(root)
    drawn = np.random.default_rng(seed).permutation(len(files))[:limit]
    squares = [Image.open(files[place]).convert("RGB").convert("L").resize((size_px, size_px)) for place in drawn]
    return np.stack([np.asarray(square) for square in squares]), classes[drawn]


def build_equals(datasets: Path, into: Path, steps: int = 250) -> dict[str, Animal]:
    """Pretrain the nets of equal size, those that are not there yet; return them by name."""
    zoo = {}
    for source in (*SOURCES, *FORMULAS):
        note = into / f"{source}.json"
        recipe = RecipeConfig(
            tag=source, input_px=TRAIN_PX, train_px=TRAIN_PX, steps=steps, batch_size=64, threads=2, save_every_s=1e6
        )
        folder = into / f"{recipe.architecture}.{source}"
        if not note.exists():
            fields, labels = draw_source(source, datasets)
            made = pretrain_backbone(fields, labels, recipe, state=into / f".{source}", into=into)
            note.write_text(json.dumps({"accuracy": made.accuracy}))
            logger.info("pretrained source=%s accuracy=%.3f", source, made.accuracy)
        zoo[folder.name] = Animal(folder, json.loads(note.read_text())["accuracy"], source)
    return zoo


def draw_source(source: str, datasets: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return grey images and labels of one source."""
    if source in SOURCES:
        return read_fields(datasets / source, FIELD_PX)
    counts = dict.fromkeys(FAMILIES, 0)
    bank = render_bank(FormulaConfig(**(counts | FORMULAS[source]), samples_per_class=10, size_px=FIELD_PX))
    return bank.fields, bank.labels

"""The embedded backbone against the same network with random weights: a linear probe on real images, paired draws.

Run: ``python -m benchmarks.embedded_probe ../shared/datasets [BACKBONE_FOLDER]``. Prints one JSON object.
"""

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.stats import t as student

import regraft.models.embedded
from benchmarks.pictures import load_squares
from regraft.models.backbones.network import build_architecture, build_backbone, read_config, read_input
from regraft.models.compute.device import limit_threads
from regraft.models.features.adabn import adapt_batchnorm
from regraft.models.features.directions import measure_spread
from regraft.models.features.extract import extract_features
from regraft.models.features.linear_probe import fit_logistic

logger = logging.getLogger(__name__)

DATASETS = ("neu", "xsdd", "hymenoptera", "mednist")
DRAWS = 10
LABELS_PER_CLASS = 20
FEWER_LABELS = (5, 10)
STRENGTH = 0.01  # inverse penalty of the logistic regression, on standardised features


def embed(backbone: torch.nn.Module, folder: Path, pixels: np.ndarray) -> np.ndarray:
    """Return features ``(N, D)`` after AdaBN on up to 512 of the images, labels unseen."""
    normalization = read_input(folder).normalization
    rows = np.random.default_rng(0).permutation(len(pixels))[:512]
    adapt_batchnorm(backbone, pixels, normalization, rows=rows)
    return extract_features(backbone, pixels, normalization)


def score_draws(features: np.ndarray, labels: np.ndarray, per_class: int = LABELS_PER_CLASS) -> np.ndarray:
    """Return balanced accuracy ``(DRAWS,)`` on all images outside each draw of ``per_class`` labelled ones."""
    classes, scores = int(labels.max()) + 1, []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        known = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(classes)])
        mean, std = measure_spread(features[known])
        weight, bias = fit_logistic((features[known] - mean) / std, labels[known], classes, STRENGTH)
        held = np.setdiff1d(np.arange(len(labels)), known)
        right = ((features[held] - mean) / std @ weight.T + bias).argmax(1) == labels[held]
        scores.append(np.mean([right[labels[held] == c].mean() for c in range(classes)]))
    return np.array(scores)


def summarise(values: np.ndarray) -> dict[str, float]:
    """Return mean and 95 % Student interval over the draws."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": round(float(values.mean()), 4), "half_width": round(float(half), 4)}


def compare_dataset(root: Path, folder: Path, random_seeds: int = 3) -> dict[str, object]:
    """Return figures of the pretrained network, of random ones (mean over seeds) and of their paired difference."""
    pixels, labels = load_squares(root, read_input(folder).size_px, Image.Resampling.BILINEAR)
    trained = embed(build_backbone(folder), folder, pixels)
    untrained = []
    for seed in range(random_seeds):
        torch.manual_seed(seed)
        untrained.append(embed(build_architecture(read_config(folder)), folder, pixels))
    return {"images": len(pixels)} | {
        f"labels_{count}": compare_features(trained, untrained, labels, count)
        for count in (LABELS_PER_CLASS, *FEWER_LABELS)
    }


def compare_features(
    trained: np.ndarray, untrained: list[np.ndarray], labels: np.ndarray, per_class: int
) -> dict[str, object]:
    """Return mean and interval of both and of the gain, paired by draw, with ``per_class`` labels."""
    reached = score_draws(trained, labels, per_class)
    seeds = [score_draws(features, labels, per_class) for features in untrained]
    by_chance = np.mean(seeds, axis=0)
    return {
        "pretrained": summarise(reached),
        "random": summarise(by_chance),
        "gain": summarise(reached - by_chance),
        "random_seed_means": [round(float(scores.mean()), 4) for scores in seeds],
    }


def measure_speed(folder: Path) -> float:
    """Return images per second of processor time at input size, batches of 32."""
    backbone, shape = build_backbone(folder), read_input(folder)
    pixels = np.zeros((160, shape.size_px, shape.size_px, 3), np.uint8)
    extract_features(backbone, pixels[:32], shape.normalization)
    start = time.process_time()
    extract_features(backbone, pixels, shape.normalization)
    return round(len(pixels) / (time.process_time() - start))


def main(root: Path, folder: Path | None = None) -> None:
    """Print the comparison on every data set below ``root``."""
    folder = folder or next(Path(regraft.models.embedded.__path__[0]).glob("*/config.json")).parent
    with limit_threads(1):
        result = {name: compare_dataset(root / name, folder) for name in DATASETS}
        answer = {"backbone": folder.name, "images_per_s": measure_speed(folder), "datasets": result}
    sys.stdout.write(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

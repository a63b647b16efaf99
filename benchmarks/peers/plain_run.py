"""The loop most people write with timm and torchvision: all layers, AdamW, cosine, 32-bit floats.

Run by the peers' own interpreter: ``python -m benchmarks.peers.plain_run PROBLEM.json``. Prints one JSON line.
"""
# ruff: noqa: E402 - importing the libraries is part of what is timed

import time

STARTED = time.perf_counter()

import json
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.peers.problem import Problem, Stopwatch, report_timing, score_labels

IMPORT_S = time.perf_counter() - STARTED
EPOCHS = 5
WORKERS = 2
RECIPE = (
    "Resize to a square, RandomHorizontalFlip; every layer from the first step; AdamW 3e-4, weight decay 0.05, "
    f"cosine to 0 over all steps; {WORKERS} loading workers"
)


class LabelledImages(Dataset):
    """Images from files, decoded and transformed when they are asked for."""

    def __init__(self, images: list[str], labels: list[int], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.images[index]) as image:
            return self.transform(image.convert("RGB")), self.labels[index]


def build_transform(size_px: int, normalization: dict[str, tuple[float, ...]], *, training: bool) -> v2.Compose:
    """Return the way from a Pillow image to a normalised tensor ``(3, size_px, size_px)``."""
    flip = [v2.RandomHorizontalFlip()] if training else []
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**normalization)]
    return v2.Compose([v2.Resize((size_px, size_px)), *flip, *to_tensor])


def build_loader(problem: Problem, config: dict, *, training: bool) -> DataLoader:
    """Return batches of the training images, shuffled, or of the test images in order."""
    images = problem.train_images if training else problem.test_images
    labels = problem.train_labels if training else problem.test_labels
    normalization = {"mean": config["mean"], "std": config["std"]}
    transform = build_transform(problem.size_px, normalization, training=training)
    dataset = LabelledImages(images, [problem.classes.index(label) for label in labels], transform)
    return DataLoader(dataset, batch_size=problem.batch_size, shuffle=training, num_workers=WORKERS)


def train_epoch(
    model: nn.Module,
    batches: DataLoader,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Take one step for each batch."""
    model.train()
    loss_of = nn.CrossEntropyLoss()
    for images, labels in batches:
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        optimizer.step()
        schedule.step()


def predict(model: nn.Module, tests: DataLoader, classes: list[str]) -> list[str]:
    """Return the most probable label of each test image."""
    model.eval()
    with torch.no_grad():
        return [classes[index] for images, _ in tests for index in model(images).argmax(1).tolist()]


def main(problem: Problem) -> dict:
    """Train and test once; return the answer."""
    torch.set_num_threads(problem.threads)
    torch.manual_seed(problem.seed)
    epochs = problem.epochs or EPOCHS
    clock = Stopwatch()
    model = timm.create_model(f"local-dir:{problem.backbone}", pretrained=True, num_classes=len(problem.classes))
    batches = build_loader(problem, model.pretrained_cfg, training=True)
    tests = build_loader(problem, model.pretrained_cfg, training=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(batches))
    clock.lap()
    accuracies = []
    for _ in range(epochs):
        train_epoch(model, batches, optimizer, schedule)
        clock.lap()
        if problem.evaluate_epochs:
            with clock.paused():
                predicted = predict(model, tests, problem.classes)
                accuracies.append(score_labels(predicted, problem.test_labels)["test_accuracy"])
    predicted = predict(model, tests, problem.classes)
    return {
        **report_timing(IMPORT_S, clock.laps),
        "epoch_test_accuracy": accuracies,
        **score_labels(predicted, problem.test_labels),
        "recipe": f"{epochs} epochs, batch {problem.batch_size}; {RECIPE}",
        "versions": {"timm": timm.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Problem.read(Path(sys.argv[1])))) + "\n")

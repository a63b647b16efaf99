"""fastai as its tutorial writes it: ``vision_learner`` on a timm backbone, ``aug_transforms``, ``fine_tune``.

Run by the peers' own interpreter: ``python -m benchmarks.peers.fastai_run PROBLEM.json``. Prints one JSON line.
"""
# ruff: noqa: E402 - importing the libraries is part of what is timed

import time

STARTED = time.perf_counter()

import json
import sys
from pathlib import Path
from typing import Any

import fastai
import timm
import torch
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Learner,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)

from benchmarks.peers.problem import Problem, Stopwatch, report_timing, score_labels

IMPORT_S = time.perf_counter() - STARTED
EPOCHS = 4
RECIPE = (
    "fine_tune, base_lr 2e-3 and its other defaults (one more epoch with a frozen body first); Resize, aug_transforms, "
    "vision_learner's head; no validation during training"
)


class LapEachEpoch(Callback):
    """Stops a lap at the end of each epoch and, where asked for, tests with the clock stopped."""

    order = 60  # after the Recorder, whose work is training's

    def __init__(self, problem: Problem, clock: Stopwatch) -> None:
        self.problem, self.clock, self.accuracies = problem, clock, []

    def after_epoch(self) -> None:
        self.clock.lap()
        if self.problem.evaluate_epochs:
            with self.clock.paused():
                predicted = predict(self.learn, self.problem)
                self.accuracies.append(score_labels(predicted, self.problem.test_labels)["test_accuracy"])


def build_learner(problem: Problem) -> Learner:
    """Return fastai's learner on all training images, normalised as the backbone's ``config.json`` says."""
    loaders = ImageDataLoaders.from_lists(
        ".",
        [Path(image) for image in problem.train_images],
        problem.train_labels,
        valid_pct=0,  # every image is trained on and no epoch pays for a validation: the test images judge
        item_tfms=Resize(problem.size_px),
        batch_tfms=aug_transforms(),
        bs=problem.batch_size,
    )
    return vision_learner(loaders, f"local-dir:{problem.backbone}", metrics=accuracy)


def predict(learner: Learner, problem: Problem) -> list[str]:
    """Return the most probable label of each test image."""
    batches = learner.dls.test_dl([Path(image) for image in problem.test_images])
    learner.model.eval()
    with torch.no_grad():
        return [learner.dls.vocab[index] for (images,) in batches for index in learner.model(images).argmax(1).tolist()]


def main(problem: Problem) -> dict[str, Any]:
    """Train and test once; return the answer."""
    torch.set_num_threads(problem.threads)
    set_seed(problem.seed)
    epochs = problem.epochs or EPOCHS
    clock = Stopwatch()
    learner = build_learner(problem)
    laps = LapEachEpoch(problem, clock)
    clock.lap()
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(epochs, cbs=laps)
    return {
        **report_timing(IMPORT_S, clock.laps),
        "epoch_test_accuracy": laps.accuracies,
        **score_labels(predict(learner, problem), problem.test_labels),
        "recipe": f"1 + {epochs} epochs, batch {problem.batch_size}; {RECIPE}; "
        f"{learner.dls.train.fake_l.num_workers} loading workers",
        "versions": {"fastai": fastai.__version__, "timm": timm.__version__, "torch": torch.__version__},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Problem.read(Path(sys.argv[1])))) + "\n")

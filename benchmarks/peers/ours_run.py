"""Our side of the speed comparison: regraft's own decoding, features, probe and fine-tuning on the same problem.

Run as ``python -m benchmarks.peers.ours_run PROBLEM.json ACCURACY``; prints one JSON line as the peers do, and besides
the time and the test accuracy of the probe and after every epoch: what a user would have had, had the run been stopped
there. It is stopped at the first of them that has ACCURACY on the test images.
"""
# ruff: noqa: E402 - importing the libraries is part of what is timed

import time

STARTED = time.perf_counter()

import contextlib
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.problem import Problem, Stopwatch, report_timing, score_labels
from regraft.models.backbones.hub import Backbone
from regraft.models.backbones.network import read_input
from regraft.models.classifier.checkpoint import Classifier
from regraft.models.compute.device import Compute, deterministic_kernels, limit_threads
from regraft.models.compute.snapshots import ResumeFolder
from regraft.models.features.cache import FeatureStore, FrozenBackbone
from regraft.models.heads.data import TrainingData
from regraft.models.heads.linear_start import prepare_start
from regraft.models.selection.candidates import describe_preprocess
from regraft.models.training.batches import Feed, score_images
from regraft.models.training.config import FinetuneConfig, make_plan
from regraft.models.training.finetune import build_classifier, open_feed
from regraft.models.training.loop import run_training
from regraft.models.training.step import TrainingSetup
from regraft.serving.decoding.preprocess import PreprocessSpec, load_input
from regraft.serving.files.durable import hash_file

IMPORT_S = time.perf_counter() - STARTED
VALIDATION_SHARE = 0.15


class Reached(Exception):  # noqa: N818
    """The accuracy that was asked for is there."""


class AskedFeed:
    """Passes everything on to a feed; between epochs, with the clock stopped, the test images are asked."""

    def __init__(
        self,
        feed: Feed,
        classifier: Classifier,
        test: TrainingData,
        names: list[str],
        watch: Stopwatch,
        enough: float,
    ) -> None:
        self._feed, self._classifier, self._test, self._names, self._watch = feed, classifier, test, names, watch
        self.answers: list[dict[str, float]] = []
        self._enough = enough

    def begin_epoch(self, epoch: int) -> None:
        """Score what the epoch before left, then go on."""
        if epoch:
            self.ask()
        self._feed.begin_epoch(epoch)

    def ask(self) -> None:
        """End a lap and note the accuracy on the test images."""
        self._watch.lap()
        with self._watch.paused():
            logits = score_images(self._classifier, self._test, self._test.train, 32)
            truth = [self._names[label] for label in self._test.labels]
            said = score_labels([self._names[place] for place in logits.argmax(axis=1)], truth)
            self.answers.append({"seconds": IMPORT_S + sum(self._watch.laps), **said})
        if said["test_accuracy"] >= self._enough:
            raise Reached

    def load_rows(self, rows: np.ndarray, step: int, following: np.ndarray | None = None) -> torch.Tensor:
        """As the feed does."""
        return self._feed.load_rows(rows, step, following)

    def embed(self, batch: torch.Tensor) -> torch.Tensor:
        """As the feed does."""
        return self._feed.embed(batch)

    def score_held(self, batch_size: int) -> np.ndarray:
        """As the feed does."""
        return self._feed.score_held(batch_size)


def decode(paths: list[str], spec: PreprocessSpec, threads: int) -> np.ndarray:
    """Return the images as the served model would see them, uint8 ``(N, S, S, 3)``."""
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(lambda path: load_input(Path(path).read_bytes(), spec), paths)))


def run(problem: Problem, folder: Path, enough: float) -> dict:
    """Train on the problem and return the answer."""
    watch = Stopwatch()
    weights = Path(problem.backbone)
    wanted = read_input(weights)
    spec = describe_preprocess(wanted, "squash")
    backbone = Backbone(weights.name, weights, hash_file(weights / "model.safetensors"), "", "", 0)
    names = problem.classes
    labels = np.array([names.index(label) for label in problem.train_labels])
    pixels = decode(problem.train_images, spec, problem.threads)
    order = np.random.default_rng(problem.seed).permutation(len(labels))
    held = np.sort(order[: int(VALIDATION_SHARE * len(labels))])
    data = TrainingData(pixels, labels, np.setdiff1d(np.arange(len(labels)), held), held)
    config = FinetuneConfig(device="cpu", threads=problem.threads, seed=problem.seed)
    resume = ResumeFolder(folder / "state", "speed")
    with limit_threads(problem.threads), deterministic_kernels():
        frozen = FrozenBackbone(
            backbone, pixels[data.train], adapt_images=0, store=FeatureStore(None), compute=Compute.of(config)
        )
        start = prepare_start(frozen, data, len(names), resume)
        classifier = build_classifier(
            frozen.network, frozen.normalization, start.widths, len(names), torch.device("cpu")
        )
        classifier.load_probe(start.probe)
        with watch.paused():
            asked = decode(problem.test_images, spec, problem.threads)
        truth = np.array([names.index(label) for label in problem.test_labels])
        test = TrainingData(asked, truth, np.arange(len(truth)), np.arange(0))
        plan = make_plan(classifier, data, spec.size_px, config, torch.device("cpu"))
        feed = open_feed(classifier, data, plan, config, folder / "activations")
        timed = AskedFeed(feed, classifier, test, names, watch, enough)
        with contextlib.suppress(Reached):
            timed.ask()  # the probe
            setup = TrainingSetup(timed, data, plan, config.loop, config.seed)
            run_training(classifier, setup, resume, stop_s=3600)
            timed.ask()
    return {
        **report_timing(IMPORT_S, watch.laps),
        "answers": timed.answers,
        "plan": plan.reason,
        "views": plan.views,
        "test_accuracy": timed.answers[-1]["test_accuracy"],
        "test_balanced": timed.answers[-1]["test_balanced"],
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        sys.stdout.write(json.dumps(run(Problem.read(Path(sys.argv[1])), Path(scratch), float(sys.argv[2]))) + "\n")

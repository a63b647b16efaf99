"""Training with augmentation on a GPU: regraft's step against timm's loop and against what the device can do at most.

``python benchmarks/gpu.py`` needs torch, timm and a CUDA device. Where regraft is not installed its row is left out and
the others are measured. ``--device cpu --quick`` runs tiny networks to show that the script works; its figures say
nothing.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

try:
    import regraft.models.compute.torchvision_gap
    import regraft.serving.silence  # noqa: F401

    INSTALLED = True
except ModuleNotFoundError:
    INSTALLED = False
if not (importlib.util.find_spec("torch") and importlib.util.find_spec("timm")):
    sys.stderr.write("this needs torch and timm: pip install torch timm\n")
    sys.exit(2)

# isort: split
import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional

CLASSES = 10
ROUNDS = 5
"""Of a measurement, after one that warms up; the median is told, and the slowest and fastest."""
Run = Callable[[int], None]
"""Takes so many steps and waits until they are done."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained.

    Attributes:
        network: Its name in timm.
        size_px: Side of the images.
        batch: Images a step.
        images: Of the set, drawn at random.
        steps: Of a round.
        workers: Processes of timm's loader.
        device: Where.
    """

    network: str
    size_px: int
    batch: int
    images: int
    steps: int
    workers: int
    device: torch.device

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Return images ``(N, S, S, 3)`` uint8 and their labels: noise costs as much as photographs once decoded."""
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (self.images, self.size_px, self.size_px, 3), dtype=np.uint8)
        return pixels, np.arange(self.images) % CLASSES

    def build(self, classes: int) -> nn.Module:
        """Return the network with random weights on the device, in channels_last and train mode."""
        torch.manual_seed(0)
        network = timm.create_model(self.network, num_classes=classes)
        return network.to(self.device, memory_format=torch.channels_last).train()

    def autocast(self) -> AbstractContextManager:
        """Return bfloat16 on CUDA, float32 elsewhere."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def open_limit(job: Job) -> Run:
    """Return steps on one batch that lies on the device ready to use: no loading, no augmentation, nothing else."""
    network = job.build(CLASSES)
    optimizer = torch.optim.AdamW(network.parameters(), fused=job.device.type == "cuda")
    images = torch.randn(job.batch, 3, job.size_px, job.size_px, device=job.device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(job.batch, device=job.device) % CLASSES

    def run(steps: int) -> None:
        for _ in range(steps):
            with job.autocast():
                loss = functional.cross_entropy(network(images).float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        job.wait()

    return run


class Pictures(torch.utils.data.Dataset):
    """Images that are decoded already, as timm's loader wants them; it sets ``transform``."""

    transform: Callable[[Image.Image], object] | None = None

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        self._images, self._labels = [Image.fromarray(each) for each in pixels], labels.tolist()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int) -> tuple[object, int]:
        assert self.transform is not None  # timm's loader has set it
        return self.transform(self._images[place]), self._labels[place]


def open_timm(job: Job) -> Run:
    """Return steps of timm's loop: its loader with prefetching, its augmentation in workers, its optimiser."""
    network = job.build(CLASSES)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.02)
    loader = create_loader(
        Pictures(*job.draw()),
        input_size=(3, job.size_px, job.size_px),
        batch_size=job.batch,
        is_training=True,
        scale=(0.8, 1.0),
        color_jitter=0.15,
        num_workers=job.workers,
        use_prefetcher=job.device.type == "cuda",
        pin_memory=job.device.type == "cuda",
        persistent_workers=job.workers > 0,
        device=job.device,
    )

    def feed() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield from loader

    batches = feed()

    def run(steps: int) -> None:
        for _ in range(steps):
            images, labels = next(batches)
            images = images.to(job.device).contiguous(memory_format=torch.channels_last)
            with job.autocast():
                loss = functional.cross_entropy(network(images).float(), labels.to(job.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        job.wait()

    return run


def open_ours(job: Job) -> Run | None:
    """Return steps as regraft takes them, from the array of pixels on; None where it is not installed."""
    if not INSTALLED:
        return None
    from regraft.models.backbones.network import Normalization
    from regraft.models.classifier.checkpoint import Classifier
    from regraft.models.compute.budget import TrainingPlan
    from regraft.models.compute.device import place_module
    from regraft.models.heads.data import TrainingData
    from regraft.models.training.batches import PixelFeed
    from regraft.models.training.loop import set_training_mode
    from regraft.models.training.optimizer import LoopConfig, build_optimizer
    from regraft.models.training.step import Stepper, TrainingSetup

    backbone, (pixels, labels) = job.build(0), job.draw()
    normalization = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    classifier = Classifier(backbone, normalization, backbone.num_features, CLASSES)
    classifier = place_module(classifier, job.device)
    config, rows = LoopConfig(), np.arange(job.images)
    data = TrainingData(pixels, labels.astype(np.int64), rows, rows[:1])
    plan = TrainingPlan((ROUNDS + 1) * job.steps, -(-job.images // job.batch), 0, 1, job.batch, "a benchmark")
    setup = TrainingSetup(PixelFeed(classifier, data, config.augment, 0), data, plan, config, 0)
    stepper = Stepper(classifier, build_optimizer(classifier, 0, config), setup)
    set_training_mode(classifier, job.batch)
    done = iter(range(plan.steps))

    def run(steps: int) -> None:
        for _ in range(steps):
            stepper.take(next(done))
        stepper.settle()  # the host looks at the losses, which it does once an epoch
        job.wait()

    return run


def measure_rate(job: Job, run: Run) -> list[float]:
    """Return images a second of each round, sorted."""
    run(job.steps)
    rates = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run(job.steps)
        rates.append(job.steps * job.batch / (time.perf_counter() - started))
    return sorted(rates)


def measure_job(job: Job) -> list[str]:
    """Return the rows of a table in Markdown: what ran, images a second, and ours over each."""
    found: dict[str, list[float]] = {}
    for name, start in (("limit", open_limit), ("timm", open_timm), ("regraft", open_ours)):
        run = start(job)
        if run is None:
            sys.stderr.write(f"{job.network}: regraft is not installed here, its row is left out\n")
            continue
        found[name] = measure_rate(job, run)
        del run
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
    ours = statistics.median(found["regraft"]) if "regraft" in found else None
    rows = []
    for name, rates in found.items():
        rate = statistics.median(rates)
        ratio = "–" if ours is None else f"{ours / rate:.2f}"
        spread = f"{rates[0]:.0f} to {rates[-1]:.0f}"
        rows.append(f"| {job.network} | {job.batch} | {name} | {rate:.0f} | {spread} | {ratio} |")
    return rows


def list_jobs(options: argparse.Namespace) -> list[Job]:
    """Return what the options ask for."""
    device = torch.device(options.device)
    if options.quick:
        return [Job(name, 160, 4, 16, 2, 0, device) for name in ("test_resnet", "test_vit")]
    names = ("resnet50", "vit_base_patch16_224")
    return [Job(name, 224, options.batch, options.images, options.steps, options.workers, device) for name in names]


def read_options(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks: shows that the script works")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--images", type=int, default=4096, help="images of the set")
    parser.add_argument("--steps", type=int, default=40, help="steps of a round")
    parser.add_argument("--workers", type=int, default=8, help="processes of timm's loader")
    return parser.parse_args(arguments)


def measure_gpu(arguments: list[str]) -> int:
    """Measure, print a page in Markdown, return the exit code: 2 where there is no device to measure on."""
    options = read_options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no CUDA device here, so there is nothing to measure; --device cpu --quick tries the script\n")
        return 2
    if options.device == "cpu" and not options.quick:
        sys.stderr.write("this is about a GPU: --device cpu goes with --quick only, and its figures say nothing\n")
        return 2
    name = torch.cuda.get_device_name() if options.device == "cuda" else "a CPU, to try the script: figures say nothing"
    lines = [f"- device: {name}", f"- torch {torch.__version__}, timm {timm.__version__}", ""]
    lines += [
        "| network | batch | what | images/s | of five rounds | regraft / this |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for job in list_jobs(options):
        lines += measure_job(job)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(measure_gpu(sys.argv[1:]))

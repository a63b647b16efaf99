"""What a run will take on this machine, before it starts: seconds for each part, disk and memory, from counted work.

Every part has one documented factor between counted work and the clock. The machine is measured, the run is not: a
busy machine or a surprising choice of backbone can double it.
"""

import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import functional

from regraft.models.compute.budget import Speed
from regraft.models.compute.cost import GroupWork
from regraft.models.compute.device import DeviceName, choose_device, limit_threads

ForecastStep = Literal["decode", "select", "finetune", "evaluate", "certify", "export"]
FORECAST_STEPS: tuple[ForecastStep, ...] = ("decode", "select", "finetune", "evaluate", "certify", "export")

DECODERS = 2
"""Threads that decode; two of them were seen to be less than twice as fast, which ``DECODE_FACTOR`` holds."""
DECODE_FACTOR = 1.3
"""Decode: hashing, shards and the pixel cache on top of the images' own time."""
SELECT_PASSES = 2.5
"""Select: how often the sample passes through each candidate: features, adapted and not, and trials of the crop."""
CANDIDATE_S = 2.0
"""Select: building a candidate, its probes and what it is compared with."""
FINETUNE_FACTOR = 1.2
"""Finetune: augmentation, snapshots and the probe on top of the counted work."""
SCORE_S = 1.0
"""Evaluate: tables and resampled intervals."""
CERTIFY_FACTOR = 1.2
"""Certify: as fine-tuning."""
EXPORT_S = 12.0
"""Export: tracing to ONNX, report, register and gate, and what happens around the stages."""
PARITY_PASSES = 2.0
"""Export: passes of the test images through ONNX, whose batches are small."""

FEATURE_BYTES = 4 * 3000
"""Kept features of one image: a few thousand numbers in single precision, all blocks of an embedding together."""
PROCESS_BYTES = 0.9e9
"""A process with torch, Prefect and DVC loaded."""
KEPT_SHARE = 0.6
"""Share of the activations written going forward that a training step keeps for the way back."""

LEAST_ROUNDS, CALIBRATION_S = 3, 0.5
"""Rounds of the calibration: at least so many, then until the time is over."""
CONVOLUTION = (16, 32, 56, 64)
"""Calibration: images, channels in, side in px, channels out."""
MATRIX = 384


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run is expected to take; a part that cannot be forecast is None, and ``notes`` say why.

    Attributes:
        seconds: By part; 0 where nothing is to be done.
        cache_bytes: Disk for pixels and features.
        memory_bytes: Peak of the process.
        notes: What is not in the figures, in words.
    """

    seconds: Mapping[ForecastStep, float | None]
    cache_bytes: float | None
    memory_bytes: float | None
    notes: tuple[str, ...] = ()

    @property
    def total_s(self) -> float:
        """Return the seconds of all parts that could be forecast."""
        return sum(value for value in self.seconds.values() if value is not None)

    def note(self, text: str) -> "Forecast":
        """Return the same forecast with one more note."""
        return replace(self, notes=(*self.notes, text))

    def describe(self) -> str:
        """Return it in words, for instance "about 6 min on this machine, 1.1 GB of cache"."""
        known = [part for part, value in self.seconds.items() if value is not None]
        if len(known) == len(self.seconds) and not self.total_s:
            return "; ".join(["no stage is left to run", *self.notes])
        unknown = [part for part in self.seconds if part not in known]
        text = f"about {say_seconds(self.total_s)} on this machine" if known else "no forecast"
        text += f" without {', '.join(unknown)}" if known and unknown else ""
        text += f", {say_bytes(self.cache_bytes)} of cache" if known and self.cache_bytes is not None else ""
        return "; ".join([text, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        rounded = {part: None if value is None else round(value, 1) for part, value in self.seconds.items()}
        return {
            "seconds": rounded,
            "total_s": round(self.total_s, 1),
            "cache_bytes": None if self.cache_bytes is None else round(self.cache_bytes),
            "memory_bytes": None if self.memory_bytes is None else round(self.memory_bytes),
            "notes": list(self.notes),
            "words": self.describe(),
        }


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done, counted.

    Attributes:
        files: Listed image files, all of which ingest reads.
        train: Distinct training images.
        validation: Likewise, of the validation part.
        test: Likewise, of the test part.
        side_px: Side of the square that the backbone sees.
        candidates: Counted work of each candidate by depth group; empty where none could be counted.
        sample: Training images that the candidates are compared on.
        read_s: Seconds one thread takes to open and measure a file; None if it could not be timed.
        square_s: Seconds one thread takes from a file to the square; None likewise.
        budget_s: Of fine-tuning, on the nominal machine.
        stop_s: Seconds on the clock after which fine-tuning ends.
        max_epochs: Of fine-tuning.
        halving_s: Of fine-tuning candidates against each other, on the nominal machine.
        certify_s: Of the controls behind the certificate, on the nominal machine; 0 where there are none.
        batch_size: Images per step.
        squares: Different preprocessings among the candidates.
    """

    files: int
    train: int
    validation: int
    test: int
    side_px: int
    candidates: tuple[tuple[GroupWork, ...], ...]
    sample: int
    read_s: float | None
    square_s: float | None
    budget_s: float
    stop_s: float
    max_epochs: int
    halving_s: float = 0.0
    certify_s: float = 0.0
    batch_size: int = 32
    squares: int = 1

    @property
    def typical(self) -> tuple[GroupWork, ...]:
        """Return the work of the candidate in the middle: which one will be chosen is not known yet."""
        return sorted(self.candidates, key=lambda work: sum(group.gflops for group in work))[len(self.candidates) // 2]


def measure_speed(threads: int, device: DeviceName = "auto") -> Speed:
    """Return what this machine does in a second, from half a second of a fixed convolution and a fixed product.

    Billions of operations per second come from the product and the convolution, billions of activation bytes from
    batch normalisation and a rectifier, which move memory and compute next to nothing; medians of several rounds.

    Args:
        threads: CPU threads that the run will use.
        device: Where it will compute.

    Raises:
        DeviceError: If "cuda" is asked for and absent.
    """
    place = choose_device(device)
    images, channels, side, wide = CONVOLUTION
    batch = torch.ones(images, channels, side, side, device=place).to(memory_format=torch.channels_last)
    kernel = torch.ones(wide, channels, 3, 3, device=place)
    matrix = torch.ones(MATRIX, MATRIX, device=place)
    mean, spread = torch.zeros(wide, device=place), torch.ones(wide, device=place)
    operations = 2 * images * side**2 * wide * channels * 9 + 4 * 2 * MATRIX**3
    compute, move = [], []
    with limit_threads(threads), torch.inference_mode():
        started = _now(place)
        while len(move) <= LEAST_ROUNDS or _now(place) - started < CALIBRATION_S:
            began = _now(place)
            response = functional.conv2d(batch, kernel, padding=1)
            for _ in range(4):
                matrix @ matrix
            computed = _now(place)
            for _ in range(4):
                functional.relu(functional.batch_norm(response, mean, spread))
            compute.append(computed - began)
            move.append(_now(place) - computed)
    # The first round warms up.
    written = 4 * 2 * 4 * images * wide * side**2
    return Speed(operations / 1e9 / statistics.median(compute[1:]), written / 1e9 / statistics.median(move[1:]))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forecast_run(
    job: Job,
    speed: Speed,
    nominal: Speed,
    *,
    todo: Collection[ForecastStep] = FORECAST_STEPS,
    notes: tuple[str, ...] = (),
) -> Forecast:
    """Return what the run takes; what cannot be forecast is None.

    Args:
        job: What is to be done.
        speed: Of this machine, as ``measure_speed`` gives it.
        nominal: Of the machine that budgets are counted for.
        todo: Parts that are not done yet; the others take no time.
        notes: Passed on.
    """
    parts: dict[ForecastStep, float | None] = {"decode": _decode_s(job, todo)}
    if job.candidates:
        work = list(job.typical)
        parts["select"] = _select_s(job, speed, nominal)
        parts["finetune"] = finetune_s(job, speed, nominal)
        parts["evaluate"] = (job.test + job.validation) * speed.forward_s(work) + SCORE_S
        parts["certify"] = job.certify_s * slowness(job, speed, nominal) * CERTIFY_FACTOR
        parts["export"] = EXPORT_S + PARITY_PASSES * job.test * speed.forward_s(work)
    seconds = {part: parts.get(part) if part == "decode" or part in todo else 0.0 for part in FORECAST_STEPS}
    kept = job.train + 2 * job.validation + job.test + job.squares * job.sample
    pixels = 3.0 * job.side_px**2 * kept
    features = FEATURE_BYTES * (job.train + job.validation + len(job.candidates) * job.sample)
    return Forecast(seconds, pixels + features, _memory_bytes(job), notes)


def slowness(job: Job, speed: Speed, nominal: Speed) -> float:
    """Return how many seconds here one second of the nominal machine is, for work like the candidates'."""
    work = list(job.typical)
    return speed.forward_s(work) / nominal.forward_s(work)


def finetune_s(job: Job, speed: Speed, nominal: Speed) -> float:
    """Return seconds of fine-tuning here: features first, then as many epochs as the budget and their limit allow."""
    counted = min(job.budget_s, prepare_s(job, nominal) + job.max_epochs * _epoch_s(job, nominal))
    trained = max(0.0, counted - prepare_s(job, nominal)) * slowness(job, speed, nominal)
    return FINETUNE_FACTOR * (prepare_s(job, speed) + min(trained, job.stop_s / FINETUNE_FACTOR))


def prepare_s(job: Job, speed: Speed) -> float:
    """Return seconds until fine-tuning proper begins: features of the training and the validation part."""
    return (job.train + job.validation) * speed.forward_s(list(job.typical))


def _epoch_s(job: Job, speed: Speed) -> float:
    work = list(job.typical)
    return job.train * speed.train_s(work, 0) + job.validation * speed.forward_s(work)


def _decode_s(job: Job, todo: Collection[ForecastStep]) -> float | None:
    """Return seconds of reading every file and of squares for the parts that are to do; ingest belongs to "decode"."""
    squares = {"select": job.squares * job.sample, "finetune": job.train + job.validation}
    squares["evaluate"] = job.test + job.validation
    count = sum(images for part, images in squares.items() if part in todo)
    files = job.files if "decode" in todo else 0
    if (job.read_s is None and files) or (job.square_s is None and count):
        return None
    return DECODE_FACTOR / DECODERS * (files * (job.read_s or 0.0) + count * (job.square_s or 0.0))


def _select_s(job: Job, speed: Speed, nominal: Speed) -> float:
    """Return seconds of rating all candidates and of successive halving among the best."""
    forward = sum(speed.forward_s(list(work)) for work in job.candidates)
    halving = job.halving_s * slowness(job, speed, nominal) if len(job.candidates) > 1 else 0.0
    return SELECT_PASSES * job.sample * forward + CANDIDATE_S * len(job.candidates) + halving


def _memory_bytes(job: Job) -> float | None:
    """Return the peak: the process, and a training step of the candidate that writes most."""
    if not job.candidates:
        return None
    most = max(sum(group.gigabytes for group in work) for work in job.candidates)
    return PROCESS_BYTES + KEPT_SHARE * job.batch_size * most * 1e9


def say_seconds(seconds: float) -> str:
    """Return a duration as people say it: 40 s, 6 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds, -1) if seconds > 20 else round(seconds)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say_bytes(count: float) -> str:
    """Return an amount of bytes with a decimal unit: 40 MB, 1.1 GB."""
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"

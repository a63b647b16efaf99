"""What a run will take on this machine, before it starts: seconds for each part, disk and memory, from counted work.

Every part has one documented factor between counted work and the clock. The machine is measured, the run is not: a
busy machine or a surprising choice of backbone can double it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from regraft.models.compute.budget import Speed
from regraft.models.compute.cost import GroupWork

ForecastStep = Literal["decode", "select", "finetune", "evaluate", "certify", "export"]
FORECAST_STEPS: tuple[ForecastStep, ...] = ("decode", "select", "finetune", "evaluate", "certify", "export")

DECODERS = 2
"""Threads that decode; two of them were seen to be less than twice as fast, which ``DECODE_FACTOR`` holds."""
DECODE_FACTOR = 1.3
"""Decode: hashing, shards and the pixel cache on top of the images' own time."""
PASS_SHARE = 0.5
"""Of a frozen pass on a CPU: what ONNX Runtime takes of torch's time; 0.3 to 0.45 of convolutions, 0.9 of attention."""
SELECT_PASSES, ADAPT_PASSES = 1.4, 0.4
"""Select: how often the sample passes through each candidate, as it is and to re-estimate its BatchNorm statistics."""
CANDIDATE_S = 4.0
"""Select: building a candidate, its graph, its probes and what it is compared with."""
VIEW_FACTOR = 1.5
"""Finetune: drawing a view and fitting the head on it, on top of its pass."""
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


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run is expected to take; a part that cannot be forecast is None, and ``notes`` say why.

    Attributes:
        seconds: By part; 0 where nothing is to be done.
        spared: Seconds of these that are not needed where a linear probe settles what training would have told.
        cache_bytes: Disk for pixels and features.
        memory_bytes: Peak of the process.
        notes: What is not in the figures, in words.
    """

    seconds: Mapping[ForecastStep, float | None]
    cache_bytes: float | None
    memory_bytes: float | None
    notes: tuple[str, ...] = ()
    spared: Mapping[ForecastStep, float] = field(default_factory=dict)

    @property
    def least_s(self) -> float:
        """Return the seconds that it takes where nothing needs to be trained."""
        return self.total_s - sum(self.spared.values())

    @property
    def total_s(self) -> float:
        """Return the seconds of all parts that could be forecast, if everything has to be done."""
        return sum(value for value in self.seconds.values() if value is not None)

    def note(self, text: str) -> "Forecast":
        """Return the same forecast with one more note."""
        return replace(self, notes=(*self.notes, text))

    def describe(self) -> str:
        """Return it in words, for instance "2 min to 6 min on this machine, 1.1 GB of cache"."""
        known = [part for part, value in self.seconds.items() if value is not None]
        if len(known) == len(self.seconds) and not self.total_s:
            return "; ".join(["no stage is left to run", *self.notes])
        unknown = [part for part in self.seconds if part not in known]
        least, most = say_seconds(self.least_s), say_seconds(self.total_s)
        span = f"about {most}" if least == most else f"{least} (if a linear probe settles it) to {most}"
        text = f"{span} on this machine" if known else "no forecast"
        text += f" without {', '.join(unknown)}" if known and unknown else ""
        text += f", {say_bytes(self.cache_bytes)} of cache" if known and self.cache_bytes is not None else ""
        return "; ".join([text, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        rounded = {part: None if value is None else round(value, 1) for part, value in self.seconds.items()}
        return {
            "seconds": rounded,
            "total_s": round(self.total_s, 1),
            "least_s": round(self.least_s, 1),
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
        certify_least_s: Of those, what is needed where the first draws settle the verdict.
        pass_share: Share of torch's time that a frozen pass takes.
        views: Views of a training or validation image that the head is fitted on.
        batch_size: Images per step.
        squares: Different preprocessings among the candidates.
        shifted: Test images as another lamp or camera would have given them, of all shifts together.
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
    certify_least_s: float = 0.0
    pass_share: float = 1.0
    views: int = 0
    batch_size: int = 32
    squares: int = 1
    shifted: int = 0

    @property
    def typical(self) -> tuple[GroupWork, ...]:
        """Return the work of the candidate in the middle: which one will be chosen is not known yet."""
        return sorted(self.candidates, key=lambda work: sum(group.gflops for group in work))[len(self.candidates) // 2]


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
    spared: dict[ForecastStep, float] = {}
    if job.candidates:
        work = list(job.typical)
        parts["select"] = _select_s(job, speed, nominal)
        parts["finetune"] = finetune_s(job, speed, nominal)
        passes = job.test + job.validation + job.pass_share * job.shifted
        parts["evaluate"] = passes * speed.forward_s(work) + SCORE_S
        slow = slowness(job, speed, nominal)
        parts["certify"] = job.certify_s * slow * CERTIFY_FACTOR
        spared["select"] = _halving_s(job, slow)
        spared["finetune"] = parts["finetune"] - prepare_s(job, speed)
        spared["certify"] = (job.certify_s - min(job.certify_s, job.certify_least_s)) * slow * CERTIFY_FACTOR
        parts["export"] = EXPORT_S + PARITY_PASSES * job.test * speed.forward_s(work)
    seconds = {part: parts.get(part) if part == "decode" or part in todo else 0.0 for part in FORECAST_STEPS}
    kept = job.train + 2 * job.validation + job.test + job.squares * job.sample
    pixels = 3.0 * job.side_px**2 * kept
    features = FEATURE_BYTES * (job.train + job.validation + len(job.candidates) * job.sample)
    spared = {part: value for part, value in spared.items() if part in todo}
    return Forecast(seconds, pixels + features, _memory_bytes(job), notes, spared)


def slowness(job: Job, speed: Speed, nominal: Speed) -> float:
    """Return how many seconds here one second of the nominal machine is, for work like the candidates'."""
    work = list(job.typical)
    return speed.forward_s(work) / nominal.forward_s(work)


def finetune_s(job: Job, speed: Speed, nominal: Speed) -> float:
    """Return seconds of fine-tuning here: features first, then as many epochs as the budget and their limit allow."""
    paid = _embed_s(job, nominal)
    counted = min(job.budget_s, paid + job.max_epochs * _epoch_s(job, nominal))
    trained = max(0.0, counted - paid) * slowness(job, speed, nominal)
    return prepare_s(job, speed) + min(FINETUNE_FACTOR * trained, job.stop_s)


def prepare_s(job: Job, speed: Speed) -> float:
    """Return seconds until fine-tuning proper begins: features of training and validation part, and of their views."""
    return (FINETUNE_FACTOR + VIEW_FACTOR * job.views) * _embed_s(job, speed)


def _embed_s(job: Job, speed: Speed) -> float:
    return job.pass_share * (job.train + job.validation) * speed.forward_s(list(job.typical))


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
    passes = SELECT_PASSES * job.pass_share + ADAPT_PASSES
    halving = _halving_s(job, slowness(job, speed, nominal))
    return passes * job.sample * forward + CANDIDATE_S * len(job.candidates) + halving


def _halving_s(job: Job, slow: float) -> float:
    return job.halving_s * slow if len(job.candidates) > 1 else 0.0


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

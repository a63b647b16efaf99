"""How often the transfer certificate is right: random, real and sabotaged weights on draws of real images."""

import hashlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import regraft.models.compute.torchvision_gap
import regraft.serving.silence  # noqa: F401

# isort: split
import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file

from benchmarks.machine import describe_machine
from regraft.models.backbones.hub import Backbone
from regraft.models.certificate.certify import certify
from regraft.models.certificate.config import CertifyConfig
from regraft.models.heads.data import LabelledImages
from regraft.serving.decoding.preprocess import PreprocessSpec, load_input
from regraft.serving.files.durable import hash_file

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "certificate.md"
DATASETS = ("neu", "xsdd", "hymenoptera")
LABELS_PER_CLASS = 10
REAL = ("mobilenetv2_100.goog_in1k", "mobilenetv2_100.tv_in1k", "tf_mobilenetv3_large_minimal_100.in1k")
RANDOM = {
    "test_resnet": {},
    "resnet10t": {"channels": [16, 32, 64, 128], "stem_width": 16},
    "mobilenetv2_050": {},
    "mobilenetv2_100": {},
}
"""Architectures whose random weights pose as pretrained ones."""
COUNTS = {"random": 100, "real": 20, "sabotaged": 20}
SIDES = {"random": 64, "real": 96, "sabotaged": 96}
SECONDS = {"random": 0.6, "real": 1.0, "sabotaged": 1.0}
"""``certify.trial_s``: a third to a half of the default, so that all of them fit into half an hour."""
ADAPTED = {"random": 96, "real": 0, "sabotaged": 96}
"""Images that BatchNorm is re-estimated on: weights that mean nothing need it, real ones do better without here."""
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Case:
    """One certificate: weights of a ``kind``, made from ``backbone`` with ``seed``, on images of ``dataset``."""

    kind: str
    backbone: str
    dataset: str
    seed: int


@dataclass(frozen=True, slots=True)
class Finding:
    """What one certificate said, and the processor's seconds it took."""

    case: Case
    decision: str
    gain: float
    low: float
    high: float
    seconds: float

    def describe(self) -> str:
        """Return the finding on one line."""
        case, interval = self.case, f"{self.gain:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        who = f"{case.kind} {case.backbone} {case.dataset} {case.seed}"
        return f"{who}: {self.decision} {interval} {self.seconds:.1f} s"


def list_cases(counts: dict[str, int]) -> Iterator[Case]:
    """Yield the cases of every kind: architectures and data sets in turn, a seed of its own for each."""
    for kind, count in counts.items():
        backbones = list(RANDOM) if kind == "random" else REAL
        for seed in range(count):
            yield Case(kind, backbones[seed % len(backbones)], DATASETS[seed // len(backbones) % len(DATASETS)], seed)


def measure_certificates(wanted: list[str], shared: Path = ROOT.parent / "shared") -> int:
    """Issue the certificates, write the page, return the exit code: 0 when every bar is met.

    Args:
        wanted: ``kind`` or ``kind=count``, for a look without a page; empty for all of them and the page.
        shared: Folder with the real data sets and backbones.
    """
    if not (shared / "datasets").is_dir():
        sys.stderr.write(f"{shared} has no data sets: nothing was measured\n")
        return 2
    named = [text.partition("=")[::2] for text in wanted]
    counts = {kind: int(count or COUNTS[kind]) for kind, count in named} or COUNTS
    started, cases, findings = time.perf_counter(), list(list_cases(counts)), []
    with tempfile.TemporaryDirectory() as folder:
        for name in DATASETS:
            for side in sorted({SIDES[kind] for kind in counts}):
                prepare_images(shared / "datasets" / name, side, Path(folder))
        with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
            for found in pool.imap_unordered(issue, [(case, shared, Path(folder)) for case in cases]):
                findings.append(found)
                sys.stderr.write(f"{len(findings)}/{len(cases)} {found.describe()}\n")
    if not wanted:
        write_page(findings, time.perf_counter() - started)
    return 0 if all(is_met(kind, findings) for kind in counts) else 1


def prepare_images(source: Path, side: int, into: Path) -> None:
    """Decode every distinct image below ``source`` into one array of ``side`` px; the folder's name is the label."""
    paths = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        paths.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)  # a duplicate would be known and test
    names = sorted({path.parent.name for path in paths.values()})
    spec = PreprocessSpec(size_px=side, fit="squash", interpolation="bilinear")
    pixels = np.stack([load_input(path.read_bytes(), spec) for path in paths.values()])
    np.save(into / f"{source.name}-{side}.npy", pixels)
    np.save(into / f"{source.name}-labels.npy", np.array([names.index(path.parent.name) for path in paths.values()]))
    (into / f"{source.name}.json").write_text(json.dumps(names))


def issue(work: tuple[Case, Path, Path]) -> Finding:
    """Return what the certificate of one case says."""
    case, shared, images = work
    names, side = json.loads((images / f"{case.dataset}.json").read_text()), SIDES[case.kind]
    pixels = np.load(images / f"{case.dataset}-{side}.npy", mmap_mode="r")
    labels = np.load(images / f"{case.dataset}-labels.npy")
    config = CertifyConfig(
        max_images=LABELS_PER_CLASS * len(names),
        trial_s=SECONDS[case.kind],
        sizes=(1.0,),  # the verdict does not rest on the smaller ones
        seed=case.seed,
        device="cpu",
        threads=1,
    )
    rng = np.random.default_rng([case.seed, 9])
    parts = np.where(rng.random(len(labels)) < 0.4, "test", "train")
    with tempfile.TemporaryDirectory() as folder:
        backbone = make_backbone(case, shared / "backbones", Path(folder), side)
        started = time.process_time()
        found = certify(backbone, LabelledImages(pixels, labels, parts, names), config, ADAPTED[case.kind])
        seconds = time.process_time() - started
    assert found.gain is not None, found.reason
    return Finding(case, found.decision, found.gain.value, found.gain.low, found.gain.high, seconds)


def make_backbone(case: Case, zoo: Path, into: Path, side: int) -> Backbone:
    """Return the weights of a case as the folder that a pretrained backbone is."""
    folder = into / case.backbone
    if case.kind == "random":
        folder.mkdir()
        torch.manual_seed(10_000 + case.seed)
        arguments = {"num_classes": 0, **RANDOM[case.backbone]}
        network = timm.create_model(case.backbone, **arguments)
        save_file(
            {name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors"
        )
        config = {"architecture": case.backbone, "model_args": arguments}
        config["pretrained_cfg"] = {"input_size": [3, side, side], "mean": [0.5] * 3, "std": [0.25] * 3}
        (folder / "config.json").write_text(json.dumps(config))
    else:
        shutil.copytree(zoo / case.backbone, folder)
        if case.kind == "sabotaged":
            weights = load_file(folder / "model.safetensors")
            save_file(shuffle_weights(weights, case.seed), folder / "model.safetensors")
    digest = hash_file(folder / "model.safetensors")
    return Backbone(case.backbone, folder, digest, "apache-2.0", "mirror", 0)


def shuffle_weights(weights: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Return weights whose numbers changed places within each tensor: what was learned is gone."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
        for name, value in sorted(weights.items())
    }


def is_met(kind: str, findings: list[Finding]) -> bool:
    """Say whether the findings of a kind keep its bar."""
    said = Counter(found.decision for found in findings if found.case.kind == kind)
    total = sum(said.values())
    return {
        "random": said["helps"] <= 0.05 * total,
        "real": said["helps"] >= 0.9 * total,
        "sabotaged": said["helps"] == 0,
    }[kind]


BARS = {"random": "helps in at most 5 %", "real": "helps in at least 18 of 20", "sabotaged": "never helps"}


def write_page(findings: list[Finding], seconds: float) -> None:
    """Write ``docs/benchmarks/certificate.md``."""
    kinds = [kind for kind in COUNTS if any(found.case.kind == kind for found in findings)]
    lines = [
        "# How often the transfer certificate is right",
        "",
        "`python -m benchmarks certificate`: certificates of weights that are known to be of no use (timm's random",
        "initialisation posing as pretrained; real weights whose numbers changed places within each tensor) and of",
        f"real ImageNet weights, on steel defects and insects at {LABELS_PER_CLASS} labels per class. Each has a",
        "split, draws and networks of its own; exact duplicates are left out. Parameters are the defaults but for",
        "smaller images and budgets:",
        ", ".join(f"{kind} {SIDES[kind]} px and {SECONDS[kind]:g} nominal seconds a draw" for kind in kinds) + ".",
        "",
        *describe_machine(),
        f"- {seconds / 60:.0f} minutes in all, {WORKERS} certificates at once on one thread each",
        "",
        "| weights | certificates | helps | no evidence | hurts | bar | kept |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(tabulate_kind(kind, findings) for kind in kinds),
        "",
        "By network and data set:",
        "",
        "| weights | network | data | certificates | helps | no evidence | hurts | difference | CPU seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *tabulate_groups(findings),
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")


def tabulate_kind(kind: str, findings: list[Finding]) -> str:
    """Return the row of one kind of weights."""
    said = Counter(found.decision for found in findings if found.case.kind == kind)
    counts = f"{sum(said.values())} | {said['helps']} | {said['no evidence']} | {said['hurts']}"
    return f"| {kind} | {counts} | {BARS[kind]} | {'yes' if is_met(kind, findings) else 'NO'} |"


def tabulate_groups(findings: list[Finding]) -> list[str]:
    """Return a row for each kind, network and data set."""
    groups: dict[Case, list[Finding]] = {}
    for found in findings:
        groups.setdefault(replace(found.case, seed=0), []).append(found)
    rows = []
    for case, members in sorted(groups.items(), key=lambda item: (item[0].kind, item[0].backbone, item[0].dataset)):
        said = Counter(found.decision for found in members)
        gain, seconds = (np.mean([getattr(found, name) for found in members]) for name in ("gain", "seconds"))
        counts = f"{len(members)} | {said['helps']} | {said['no evidence']} | {said['hurts']}"
        rows.append(f"| {case.kind} | {case.backbone} | {case.dataset} | {counts} | {gain:+.3f} | {seconds:.1f} |")
    return rows

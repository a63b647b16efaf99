"""Ten labels a class, the pipeline left to itself: from a raw folder to a promoted bundle through the command line."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from benchmarks.machine import describe_machine
from benchmarks.pictures import list_pictures

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks" / "few-labels.md"
BIN = Path(sys.executable).parent
BARS = {"neu": 0.965, "xsdd": 0.935}
"""Mean balanced test accuracy that is asked for with ten labels a class."""
LABELS = 10
DRAWS = 5
MAX_TEST = 600
"""Test images of a draw, stratified; drawn anew each time."""


def draw_folder(source: Path, into: Path, labels: int, seed: int, max_test: int = MAX_TEST) -> None:
    """Write ``train/`` with ``labels`` images of every class and ``test/`` with others, drawn by ``seed``.

    Of equal files one is used: regraft refuses a folder whose given parts share an image.
    """
    generator = np.random.default_rng(seed)
    files: dict[str, list[Path]] = {}
    seen: set[bytes] = set()
    for path in list_pictures(source)[0]:
        if (content := path.read_bytes()) not in seen:
            seen.add(content)
            files.setdefault(path.parent.name, []).append(path)
    left = sum(map(len, files.values())) - labels * len(files)
    for name, paths in sorted(files.items()):
        shuffled = [paths[place] for place in generator.permutation(len(paths))]
        asked = round((len(paths) - labels) * min(1.0, max_test / left))
        for part, chosen in (("train", shuffled[:labels]), ("test", shuffled[labels : labels + asked])):
            folder = into / part / name
            folder.mkdir(parents=True)
            for number, path in enumerate(chosen):
                shutil.copyfile(path, folder / f"{number:04d}{path.suffix.lower()}")


def run_draw(name: str, seed: int, shared: Path) -> dict[str, Any]:
    """Return balanced accuracy, the seconds until the bundle was written and what was chosen."""
    with tempfile.TemporaryDirectory() as scratch:
        images, root = Path(scratch) / "images", Path(scratch) / "w"
        draw_folder(shared / "datasets" / name, images, LABELS, seed)
        subprocess.run([BIN / "regraft", "init", root], check=True, stdout=subprocess.DEVNULL)
        command = [BIN / "regraft", "train", "--workspace", root, "--data", images]
        started = time.perf_counter()
        result = subprocess.run(
            [*map(str, command), "--backbones", str(shared / "backbones"), "--json"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        whole = time.perf_counter() - started
        if result.returncode not in (0, 3):
            raise RuntimeError(f"regraft train ended with {result.returncode}: {result.stderr[-2000:]}")
        answer = json.loads(result.stdout)
        info = json.loads((root / "models" / "store" / "checkpoint" / "checkpoint.json").read_text())
    return {
        "data set": name,
        "draw": seed,
        "balanced": answer["metrics"]["test"]["balanced_accuracy"],
        "n": answer["metrics"]["test"]["n"],
        "backbone": answer["backbone"],
        "kept": info["kept"],
        "to bundle": sum(stage["seconds"] for stage in answer["stages"]),
        "whole": whole,
    }


def summarise(values: list[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95 % Student interval over the draws."""
    spread = float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(np.mean(values)), float(student.ppf(0.975, max(1, len(values) - 1)) * spread)


def measure_few_labels(names: list[str], shared: Path = ROOT.parent / "shared", draws: int = DRAWS) -> int:
    """Measure the named data sets (all when empty), write the page, return the exit code."""
    rows = []
    for name in names or BARS:
        for seed in range(draws):
            rows.append(run_draw(name, seed, shared))
            sys.stderr.write(f"{rows[-1]}\n")
    write_page(rows)
    means = {name: summarise([row["balanced"] for row in rows if row["data set"] == name])[0] for name in names or BARS}
    return 0 if all(mean >= BARS[name] for name, mean in means.items()) else 1


def write_page(rows: list[dict[str, Any]]) -> None:
    """Write ``docs/benchmarks/few-labels.md``."""
    lines = [
        "# Ten labels a class",
        "",
        f"`python -m benchmarks few-labels`: each draw takes {LABELS} images of every class as `train/` and up to",
        f"{MAX_TEST} others as `test/`, makes a workspace and calls `regraft train --data .. --backbones .. --json`;",
        "every parameter has its default. Of the ten, the split keeps two a class for choosing. Six backbones in the",
        "mirror and the embedded one are candidates. Seconds to the bundle are those of all stages up to export.",
        "",
        *describe_machine(),
        "",
        "| data set | draws | balanced accuracy, mean (95 % interval of the mean) | bar | slowest to the bundle, s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(row["data set"] for row in rows):
        own = [row for row in rows if row["data set"] == name]
        mean, half = summarise([row["balanced"] for row in own])
        slowest = max(row["to bundle"] for row in own)
        lines.append(f"| {name} | {len(own)} | {mean:.4f} ± {half:.4f} | {BARS[name]:.3f} | {slowest:.0f} |")
    lines += [
        "",
        "| data set | draw | test n | balanced | backbone | kept | to the bundle, s | whole command, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['data set']} | {row['draw']} | {row['n']} | {row['balanced']:.4f} | {row['backbone']} | "
            f"{row['kept']} | {row['to bundle']:.0f} | {row['whole']:.0f} |"
        )
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines) + "\n")

"""How far the forecast of ``regraft train`` is off: ten runs of different size, everything at its default."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.few_labels import draw_folder
from benchmarks.machine import describe_machine
from regraft.data.synthetic.steel import SteelLine, render_folder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "forecasts.md"
SHARED = Path(__file__).resolve().parents[2] / "shared"
BIN = Path(sys.executable).parent
ALLOWED = 0.3
"""Share of the real seconds that the forecast may be off."""


def list_runs() -> dict[str, tuple[Callable[[Path], object], bool]]:
    """Return for each run how its images are made, and whether the mirror's backbones are candidates too."""

    def render(per_class: int, side: int) -> Callable[[Path], object]:
        line = SteelLine.default().with_changes(camera={"resolution_px": side})
        return lambda into: render_folder(into, line, per_class, seed=1)

    def draw(name: str, labels: int) -> Callable[[Path], object]:
        return lambda into: draw_folder(SHARED / "datasets" / name, into, labels, seed=0, max_test=200)

    return {
        "rendered, 6 x 10, 64 px": (render(10, 64), False),
        "rendered, 6 x 16, 64 px": (render(16, 64), False),
        "rendered, 6 x 60, 128 px": (render(60, 128), False),
        "rendered, 6 x 200, 128 px": (render(200, 128), False),
        "neu, 10 a class": (draw("neu", 10), True),
        "neu, 40 a class": (draw("neu", 40), True),
        "xsdd, 20 a class": (draw("xsdd", 20), True),
        "hymenoptera, 30 a class": (draw("hymenoptera", 30), True),
        "hymenoptera, 90 a class": (draw("hymenoptera", 90), True),
        "mednist, 30 a class": (draw("mednist", 30), True),
    }


def run(make: Callable[[Path], object], mirror: bool) -> dict[str, Any]:
    """Train once and return the forecast and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as scratch:
        images, root = Path(scratch) / "images", Path(scratch) / "w"
        make(images)
        subprocess.run([BIN / "regraft", "init", root], check=True, stdout=subprocess.DEVNULL)
        command = [BIN / "regraft", "train", "--workspace", root, "--data", images, "--json"]
        command += ["--backbones", SHARED / "backbones"] if mirror else []
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode not in (0, 3):
            raise RuntimeError(done.stderr[-2000:])
        told = json.loads(done.stdout)["forecast"]
        shutil.rmtree(root)
    return {"least": told["least_s"], "most": told["total_s"], "seconds": seconds}


def rate_miss(row: dict[str, Any]) -> float:
    """Return how far the real seconds lie outside the forecast span, as a share of them."""
    below, above = row["least"] - row["seconds"], row["seconds"] - row["most"]
    return max(below, above, 0.0) / row["seconds"]


def measure_forecasts(_: list[str]) -> int:
    """Write the page; exit code 1 if one run lies further outside its forecast than allowed."""
    if not SHARED.is_dir():
        sys.stderr.write("the real data sets are not beside the checkout\n")
        return 2
    rows = {name: run(*how) for name, how in list_runs().items()}
    misses = [rate_miss(row) for row in rows.values()]
    worst = max(misses)
    table = [
        f"| {name} | {row['least']:.0f} to {row['most']:.0f} | {row['seconds']:.0f} | {miss:.0%} |"
        for (name, row), miss in zip(rows.items(), misses, strict=True)
    ]
    lines = [
        "# The forecast",
        "",
        "`python -m benchmarks forecasts`: ten runs, everything at its default, those of real images with six "
        "backbones in the mirror beside the embedded one. The forecast is a span: its low end if a linear probe "
        "settles it, its high end if everything is trained. The miss is the distance from the span, as a share of the "
        "real seconds of the whole process.",
        "",
        *describe_machine(),
        "",
        f"Within {ALLOWED:.0%}: **{sum(miss <= ALLOWED for miss in misses)} of {len(misses)}**, worst {worst:.0%}, "
        f"mean {np.mean(misses):.0%}.",
        "",
        "| run | forecast s | real s | miss |",
        "| --- | --- | --- | --- |",
        *table,
        "",
    ]
    PAGE.write_text("\n".join(lines))
    sys.stdout.write(PAGE.read_text())
    return 0 if worst <= ALLOWED else 1

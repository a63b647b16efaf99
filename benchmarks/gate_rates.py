"""How often the gate errs: simulated versions with known truth, judged as the product judges them."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from regraft.models.promotion.gate import GateConfig, Sample, compare_versions

PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "gate.md"
RUNS = 2000
CLASSES = 6
Draw = Callable[[np.random.Generator], dict]


def measure_gate(arguments: list[str]) -> int:
    """Simulate every scenario, write the page, return the exit code: 1 if more than 1 - confidence is promoted falsely.

    Args:
        arguments: The number of runs of each scenario, or nothing.
    """
    runs = int(arguments[0]) if arguments else RUNS
    rows, worst = [], 0.0
    for name, promised, draw in SCENARIOS:
        rng = np.random.default_rng(len(rows))
        verdicts = [judge_in_turn(draw(rng)) for _ in range(runs)]
        shares = {kind: float(np.mean([one == kind for one in verdicts])) for kind in ("promote", "keep", "undecided")}
        worst = max(worst, shares["promote"] if promised else 0.0)
        rows.append((name, promised or "-", *(f"{share:.3f}" for share in shares.values())))
        sys.stderr.write(f"{rows[-1]}\n")
    write_page(rows, runs)
    return int(worst > 0.05)


def judge_in_turn(told: dict) -> str:
    """Return the decision; a scenario of several looks is judged until it is settled."""
    for look, parts in enumerate(told["looks"], start=1):
        verdict = compare_versions(**parts, look=look, config=GateConfig())
        if verdict.decision != "undecided":
            return verdict.decision
    return "undecided"


def answer(rng: np.random.Generator, hard: np.ndarray, skill: float) -> np.ndarray:
    """Return whether a version of ``skill`` (0-1) is right on images of that hardness (0-1), bool ``(N,)``."""
    return rng.random(len(hard)) < np.clip(skill + 0.25 - 0.5 * hard, 0, 1)


def equal_versions(rng: np.random.Generator, n: int, picked: bool) -> dict:
    """Two versions equally good at everything; half of the images were picked where the champion is unsure, or none."""
    pool = 4 * n
    hard = rng.random(pool)
    champion, challenger = answer(rng, hard, 0.85), answer(rng, hard, 0.85)
    unsure = np.where(champion, rng.normal(0, 1, pool), rng.normal(0.6, 1, pool))  # it is unsure where it errs
    rows = np.arange(n)
    if picked:
        rest = np.arange(n // 2, pool)
        rows = np.concatenate([np.arange(n // 2), rest[np.argsort(-unsure[rest])[: n - n // 2]]])
    sample = Sample(champion[rows], challenger[rows], np.arange(n) % CLASSES)
    return {"looks": [{"whole": sample, "present": sample}]}


def coils(rng: np.random.Generator, known: bool) -> dict:
    """Two equal versions, thirty images of each of twenty coils, of which most share their coil's fate."""
    fate = np.repeat(rng.random(20), 30)
    u = np.where(rng.random(600) < 0.7, fate, rng.random(600))
    names = [f"coil {number // 30}" for number in range(600)] if known else None
    sample = Sample(u >= 0.15, (u < 0.15) | (u >= 0.3), np.arange(600) % CLASSES, names)
    return {"looks": [{"whole": sample}]}


def differing(rng: np.random.Generator, n: int, share: float, gain: float) -> Sample:
    """Two versions that differ on ``share`` of the images, the challenger better by ``gain`` (both 0-1)."""
    u = rng.random(n)
    wins, losses = (share + gain) / 2, (share - gain) / 2
    return Sample(u >= wins, (u < wins) | (u >= wins + losses), np.arange(n) % CLASSES)


def looks(rng: np.random.Generator, gain: float) -> dict:
    """A challenger that is judged five times on a growing random sample."""
    whole = differing(rng, 600, 0.4, gain)
    return {"looks": [{"whole": whole, "present": whole.take(np.arange(n))} for n in (30, 80, 160, 300, 600)]}


def guarded(rng: np.random.Generator, old: int, loss: float) -> dict:
    """A challenger much better on the present line that loses ``loss`` (0-1) on ``old`` old images."""
    before = differing(rng, old, max(0.1, loss), -loss)
    return {"looks": [{"whole": before, "present": differing(rng, 60, 0.5, 0.4), "old": before}]}


SCENARIOS: list[tuple[str, str, Draw]] = [
    ("equal, 50 random images", "<= 0.05", lambda rng: equal_versions(rng, 50, picked=False)),
    ("equal, 200 random images", "<= 0.05", lambda rng: equal_versions(rng, 200, picked=False)),
    ("equal, 200 images, half picked where the champion is unsure", "", lambda rng: equal_versions(rng, 200, True)),
    ("equal, 20 coils of 30 images, coils known", "<= 0.05", lambda rng: coils(rng, known=True)),
    ("equal, 20 coils of 30 images, coils not known", "", lambda rng: coils(rng, known=False)),
    ("equal, judged up to five times on 30 to 600 images", "<= 0.05", lambda rng: looks(rng, 0.0)),
    ("better by 0.2, judged up to five times", "", lambda rng: looks(rng, 0.2)),
    ("better by 0.4 now, equal on 30 old images", "", lambda rng: guarded(rng, 30, 0.0)),
    ("better by 0.4 now, equal on 144 old images", "", lambda rng: guarded(rng, 144, 0.0)),
    ("better by 0.4 now, 0.10 worse on 144 old images", "", lambda rng: guarded(rng, 144, 0.1)),
    ("better by 0.4 now, 0.10 worse on 736 old images", "", lambda rng: guarded(rng, 736, 0.1)),
]
"""Name, the share of promotions that is promised (nothing where there is no promise), and how to draw one case."""


def write_page(rows: list[tuple], runs: int) -> None:
    """Write ``docs/benchmarks/gate.md``."""
    lines = [
        "# How often the gate errs",
        "",
        f"`python -m benchmarks gate`: {runs} simulated comparisons a row, six classes, every setting at its default.",
        "The rows of picked images and of unknown coils show what would happen otherwise: only random images judge,",
        "and known groups are what is resampled.",
        "",
        *describe_machine(),
        "",
        "| versions and images | promised promotions | promoted | kept out | undecided |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    PAGE.write_text("\n".join(lines) + "\n")

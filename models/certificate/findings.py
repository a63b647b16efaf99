"""What the outcomes of all conditions amount to: the comparisons, the figures of each condition, curves and notes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from regraft.models.certificate.baselines import Outcome
from regraft.models.certificate.config import CertifyConfig, write_recipe
from regraft.models.certificate.learning_curve import UNTOLD, Crossing, find_crossing, fit_curve, value_labels
from regraft.models.certificate.paired_difference import Difference, measure_difference, say_images
from regraft.models.certificate.verdict import CONDITIONS, Certificate, Condition, decide_transfer
from regraft.models.statistics.merits import weigh_total

SURE = 0.99
"""Two-sided coverage that the verdict of the first draws needs to be the last word. Source: the rule of Haybittle and
Peto, by which an early look hardly adds to the error rate of the last one."""
FEW_STEPS = 200
"""Steps from scratch below which the certificate says that they are few."""
MORE_LABELS = 100


def compare_conditions(
    outcomes: Mapping[tuple[str, int], Sequence[Outcome]],
    n: int,
    answers: np.ndarray,
    confidence: float,
    groups: np.ndarray | None,
) -> tuple[Difference, Difference]:
    """Return what transfer is better by than scratch and than nearest neighbours, each on the draws of both."""
    transfer, scratch, neighbours = (
        np.stack([outcome.merits for outcome in outcomes[condition, n]]) for condition in CONDITIONS
    )
    draws = len(scratch)
    gain = measure_difference(transfer[:draws], scratch, answers, confidence, groups=groups)
    return gain, measure_difference(transfer, neighbours, answers, confidence, groups=groups)


def write_certificate(
    outcomes: Mapping[tuple[str, int], Sequence[Outcome]],
    answers: np.ndarray,
    config: CertifyConfig,
    facts: Mapping[str, Any],
    groups: np.ndarray | None = None,
) -> Certificate:
    """Return the certificate that the outcomes of all conditions amount to; ``groups`` are those of the test images."""
    n = facts["n"]
    gain, floor = compare_conditions(outcomes, n, answers, config.confidence, groups)
    facts = {**facts, "draws": gain.draws}
    decided = decide_transfer(gain, floor, config.smallest_gain)
    ordered = sorted(outcomes, key=lambda key: (CONDITIONS.index(key[0]), key[1]))
    conditions = [
        describe_condition(name, size, outcomes[name, size], answers, config, n, groups) for name, size in ordered
    ]
    return Certificate(
        **facts,
        **asdict(decided),
        gain=gain,
        floor=floor,
        conditions=conditions,
        notes=list_notes(config, facts, outcomes, helps=decided.decision == "helps"),
        **describe_curves(conditions, gain.low > 0, config, len(answers)),
    )


def describe_condition(
    condition: str,
    size: int,
    found: Sequence[Outcome],
    answers: np.ndarray,
    config: CertifyConfig,
    n: int,
    groups: np.ndarray | None,
) -> Condition:
    """Return the figures of one condition at one size."""
    merits = np.stack([outcome.merits for outcome in found])
    level = measure_difference(merits, np.zeros_like(merits), answers, config.confidence, groups=groups)
    return Condition(
        condition=condition,
        n=size,
        accuracy=level.value,
        low=max(0.0, level.low),
        high=level.high,
        by_draw=[weigh_total(row, answers) for row in merits],
        taken=[outcome.kind for outcome in found],
        budget_s=0.0 if condition == "neighbours" else write_recipe(condition, size, n, 0, config).budget_s,
        steps=[outcome.steps for outcome in found],
        frozen_groups=found[0].frozen_groups,
    )


def describe_curves(conditions: Sequence[Condition], ahead: bool, config: CertifyConfig, images: int) -> dict[str, Any]:
    """Return fits, crossing and the worth of more labels; nothing where fewer than three sizes were measured."""
    sizes = sorted({condition.n for condition in conditions})
    if len(sizes) < 3:
        return {}
    fits, rows = {}, []
    for name in ("transfer", "scratch"):
        rows = sorted(
            (condition for condition in conditions if condition.condition == name), key=lambda condition: condition.n
        )
        if len(rows) == len(sizes):
            fits[name] = fit_curve(np.array(sizes), 1 - np.array([condition.by_draw for condition in rows]).T, images)
    if "scratch" in fits:
        crossing = find_crossing(fits["transfer"], fits["scratch"], ahead=ahead, steps=max(rows[-1].steps))
    else:
        words = f"{UNTOLD}: the verdict stood so soon that scratch was not tried with fewer labels"
        crossing = Crossing("untold", None, None, None, words)
    return {
        "fits": {name: asdict(fit) for name, fit in fits.items()},
        "crossing": asdict(crossing),
        "next_labels": asdict(value_labels(fits["transfer"], MORE_LABELS, config.confidence)),
    }


def list_notes(
    config: CertifyConfig,
    facts: Mapping[str, Any],
    outcomes: Mapping[tuple[str, int], Sequence[Outcome]],
    *,
    helps: bool,
) -> list[str]:
    """Return how it was measured, in sentences, and what the verdict was reached by."""
    scratch, sizes = outcomes["scratch", facts["n"]], Counter(condition for condition, _ in outcomes)
    steps = [outcome.steps for outcome in scratch]
    notes = [
        f"{facts['draws']} draws of {facts['n']} labelled images, {say_images(facts['images'], facts.get('groups'))}, "
        f"{facts['size_px']} px; "
        "from scratch every draw has a random network of its own.",
        "Both networks have two trials on each draw, a linear probe and training; images of the draw that neither "
        "learned from decide between them.",
        f"Training may take {config.trial_s:g} nominal seconds a draw with the pretrained weights and "
        f"{config.trial_s * config.scratch_factor:g} from scratch, which needs longer; {config.max_epochs} and "
        f"{round(config.max_epochs * config.scratch_factor)} passes at most. Smaller draws have proportionally less.",
    ]
    if sizes["scratch"] < sizes["transfer"]:
        why = f"the verdict was certain at {SURE:.0%}" if helps else "no further draw would have settled the verdict"
        notes.append(
            f"After {facts['draws']} draws {why}: scratch was not run any further, and "
            f"the rest of {config.draws} draws shows the learning curve of the pretrained weights alone."
        )
    if facts.get("groups") is not None:
        notes.append(
            "Images come in groups: labels are drawn group by group, and the intervals are those of other groups."
        )
    if max(steps) < FEW_STEPS:
        notes.append(
            f"From scratch that is {max(steps)} steps, few for a network: with more time (certify.trial_s, "
            "certify.max_epochs) scratch may come nearer."
        )
    if frozen := max(outcome.frozen_groups for outcome in scratch):
        notes.append(
            f"The budget did not reach for all layers from scratch: {frozen} depth groups stayed random. Scratch is "
            "held back by that; raise certify.trial_s before you rely on this."
        )
    return notes

"""A few random labels that settle whether a change did harm, looked at as they come."""

import math
from dataclasses import dataclass
from typing import Literal

WRONG = 0.05
"""Chance of each of the two wrong answers, at the two accuracies that are told apart."""
LEAST_ERROR, LARGEST_ERROR = 0.01, 0.95
"""Bounds of the error rates: of a version that made no mistake yet the first one will come."""

Outcome = Literal["open", "no harm", "harm"]


@dataclass(frozen=True, slots=True)
class Audit:
    """What random labels since an alarm say.

    Attributes:
        outcome: "open" asks for more of them.
        right: Answers that the labels confirm.
        wrong: Answers that they do not.
        wanted: Labels in all that the next look needs; as many as there are once it is decided.
    """

    outcome: Outcome
    right: int
    wrong: int
    wanted: int

    @property
    def labels(self) -> int:
        """Return how many labels it rests on."""
        return self.right + self.wrong


def judge_audit(right: int, wrong: int, accuracy: float, drop: float, *, step: int, most: int) -> Audit:
    """Return whether the version still answers as it was accepted, ``accuracy``, or worse by ``drop``.

    May be asked after every label: the error rates hold for the first decided answer, whenever it comes. At ``most``
    labels the more likely of the two is taken.

    Args:
        right: Random answers that were labelled as they were given.
        wrong: Those that were not.
        accuracy: Of the version when it was accepted, 0-1.
        drop: Fall that must not be missed.
        step: Labels asked for at once.
        most: Labels at which it is decided either way.

    Source: the sequential probability ratio test, Wald 1945.
    """
    before = min(max(1 - accuracy, LEAST_ERROR), LARGEST_ERROR - 0.05)
    after = min(before + drop, LARGEST_ERROR)
    evidence = wrong * math.log(after / before) + right * math.log((1 - after) / (1 - before))
    bound = math.log((1 - WRONG) / WRONG)
    labels = right + wrong
    outcome: Outcome = "open"
    if labels and (abs(evidence) >= bound or labels >= most):
        outcome = "harm" if evidence > 0 else "no harm"
    wanted = labels if outcome != "open" else min(max(most, labels + 1), (labels // step + 1) * step)
    return Audit(outcome, right, wrong, wanted)

"""The gate between a new model and the champion's place: two questions to the same test images, then a decision.

Is the challenger better on what is produced now, and does it not forget what the champion knew? A gate answers
``promote``, ``keep`` or ``undecided`` with its numbers; it never acts. The test behind it is in
``models/statistics/paired.py``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from regraft.models.statistics.paired import compare_paired, estimate_needed

Decision = Literal["promote", "keep", "undecided"]
Finding = Literal["yes", "no", "cannot be told"]
Asked = Literal["present line", "all test images", "old line"]


class GateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a challenger must show to become champion."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Two-sided coverage of the intervals; 1 - confidence bounds the share of false promotions, over all looks."""
    max_forgetting: float = Field(0.03, ge=0, le=1)
    """Balanced accuracy that a challenger may lose on the old line."""
    needs_proof: bool = False
    """Whether "not worse on the old line" must be proven; otherwise only a proven loss keeps a challenger out."""
    max_looks: int = Field(5, ge=1, le=20)
    """Times that an undecided challenger is judged on more images before the champion stays for good."""
    floor: float = Field(0.0, ge=0, le=1)
    """Balanced accuracy below which nothing is promoted, whatever it beats."""
    smallest_gain: float = Field(0.01, gt=0, le=1)
    """Difference worth settling; it sizes the request for more images when the observed one is smaller."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question, its answer and what it rests on; accuracies are balanced ones, differences challenger - champion.

    ``finding`` is "yes" when the interval lies above ``threshold``, "no" when it lies below, else "cannot be told" and
    ``needed`` is about how many more images would tell.
    """

    asked: Asked
    finding: Finding
    n: int
    groups: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    threshold: float
    p_value: float
    wins: int
    losses: int
    confidence: float
    needed: int | None


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The gate's answer. ``statistic`` must have its ``low`` above ``threshold`` for a promotion.

    Against a champion the statistic is the difference of balanced accuracies on the images that decide, without one the
    balanced accuracy itself; ``p_value`` is of the same test as the interval. ``questions`` hold what was asked,
    the deciding one first. ``look`` counts how often this challenger was judged, ``needed`` is about how many more
    images would settle it, ``lost_labels`` are the champion's that the challenger cannot name.
    """

    decision: Decision
    reason: str
    statistic: float
    low: float
    high: float
    threshold: float
    n: int
    groups: int
    p_value: float
    confidence: float
    challenger_accuracy: float
    champion_accuracy: float | None = None
    wins: int = 0
    losses: int = 0
    needed: int | None = None
    look: int = 1
    questions: tuple[Question, ...] = ()
    judged_before: int = 0
    lost_labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """Test images that both versions answered.

    ``champion`` and ``challenger`` are the merits of their answers, ``(N,)``, 0-1 (right or wrong is 1 or 0);
    ``strata`` are the true classes ``(N,)``; ``groups`` what each shows a piece of, or None.
    """

    champion: np.ndarray
    challenger: np.ndarray
    strata: np.ndarray
    groups: Sequence[str | None] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit.

        Raises:
            ValueError: Naming every problem.
        """
        shapes = {"champion": self.champion.shape, "challenger": self.challenger.shape, "strata": self.strata.shape}
        if len(set(shapes.values())) > 1 or self.champion.ndim != 1:
            raise ValueError(f"cannot compare versions: shapes {shapes}. Score both on the same test images.")
        if self.groups is not None and len(self.groups) != len(self.strata):
            raise ValueError(f"cannot compare versions: {len(self.groups)} groups for {len(self.strata)} images.")

    def __len__(self) -> int:
        return len(self.strata)

    def take(self, rows: np.ndarray) -> "Sample":
        """Return the images that the mask or the indices ``rows`` name."""
        groups = None if self.groups is None else list(np.array(self.groups, dtype=object)[rows])
        return Sample(self.champion[rows], self.challenger[rows], self.strata[rows], groups)


def spend_error(confidence: float, look: int) -> float:
    """Return the coverage of look number ``look`` (from 1), so that all looks together err at most 1 - ``confidence``.

    Half of the allowed error belongs to the first look, half of what is left to each further one.
    """
    return 1 - (1 - confidence) / 2**look


def compare_versions(
    whole: Sample,
    *,
    present: Sample | None = None,
    old: Sample | None = None,
    look: int = 1,
    config: GateConfig | None = None,
) -> GateVerdict:
    """Decide whether the challenger takes the champion's place.

    ``promote``: proven better where it counts, no proven forgetting, above the floor. ``keep``: proven worse, or one
    of these objections. ``undecided``: about ``needed`` more images would tell.

    Args:
        whole: All test images; they decide where nothing is known of the present line.
        present: A random sample of what is produced now; it decides alone where it holds images.
        old: The images that the champion was accepted on; they guard against forgetting.
        look: How often this challenger has been judged, this time counted in; each look gets its share of the error.
        config: Thresholds.

    Raises:
        ValueError: If there are no test images.
    """
    config = config or GateConfig()
    if len(whole) == 0 and not present:
        raise ValueError("cannot compare versions: there are no test images. Score both on the same test images.")
    coverage = spend_error(config.confidence, look)
    deciding = present if present else whole
    asked: Asked = "present line" if present else "all test images"
    gain = _ask(asked, deciding, 0.0, coverage, spend_error(config.confidence, look + 1), config)
    questions = [gain]
    if old:
        questions.append(_ask("old line", old, -config.max_forgetting, config.confidence, config.confidence, config))
    return judge_questions(questions, look, config)


def judge_questions(questions: list[Question], look: int, config: GateConfig) -> GateVerdict:
    """Return what the answers amount to; the first question decides, a second one guards against forgetting."""
    gain = questions[0]
    decision, reason = _decide(questions, config)
    if decision == "undecided" and look >= config.max_looks:
        decision, reason = "keep", f"{reason}; after {look} looks the champion stays"
    return GateVerdict(
        decision=decision,
        reason=reason,
        statistic=gain.difference,
        low=gain.low,
        high=gain.high,
        threshold=0.0,
        n=gain.n,
        groups=gain.groups,
        p_value=gain.p_value,
        confidence=gain.confidence,
        challenger_accuracy=gain.challenger,
        champion_accuracy=gain.champion,
        wins=gain.wins,
        losses=gain.losses,
        needed=gain.needed if decision == "undecided" else None,
        look=look,
        questions=tuple(questions),
    )


def _ask(
    asked: Asked, sample: Sample, threshold: float, confidence: float, next_confidence: float, config: GateConfig
) -> Question:
    d = compare_paired(sample.champion, sample.challenger, sample.strata, sample.groups, confidence)
    finding: Finding = "yes" if d.low > threshold else "no" if d.high < threshold else "cannot be told"
    gap = max(abs(d.value - threshold), config.smallest_gain)
    return Question(
        asked=asked,
        finding=finding,
        n=d.images,
        groups=d.groups,
        champion=d.champion,
        challenger=d.challenger,
        difference=d.value,
        low=d.low,
        high=d.high,
        threshold=threshold,
        p_value=d.p_value,
        wins=d.wins,
        losses=d.losses,
        confidence=confidence,
        needed=estimate_needed(d, gap, next_confidence) if finding == "cannot be told" else None,
    )


def _decide(questions: list[Question], config: GateConfig) -> tuple[Decision, str]:
    """Return what follows from the findings, and the sentence that says why."""
    gain, guard = questions[0], questions[1] if len(questions) > 1 else None
    shown = describe_question(gain)
    if gain.finding == "no":
        return "keep", f"the challenger is worse by {shown}"
    if gain.challenger < config.floor:
        said = f"its balanced accuracy {gain.challenger:.4f} is below the floor {config.floor:.4f}"
        return "keep", f"the challenger is not promoted: {said}"
    if guard is not None and guard.finding == "no":
        said = f"it forgets: {guard.champion:.4f} fell to {guard.challenger:.4f}, {describe_question(guard)}"
        return "keep", f"the challenger is not promoted: {said}, more than the {config.max_forgetting:.4f} allowed"
    if gain.finding == "cannot be told":
        same = f"both answer alike on {_name_images(gain)}" if gain.wins + gain.losses == 0 else ""
        effect = max(abs(gain.difference), config.smallest_gain)
        told = same or f"the difference {shown} is not told from 0"
        return "undecided", f"{told}: about {gain.needed} more would settle a difference of {effect:.4f}"
    if guard is None:
        return "promote", f"the challenger is better by {shown}"
    kept = f"the loss allowed on the old line ({config.max_forgetting:.4f}) is not reached: {describe_question(guard)}"
    if guard.finding == "yes":
        return "promote", f"the challenger is better by {shown}; {kept}"
    unsure = f"whether it forgets on the old line cannot be told with so few: {describe_question(guard)}"
    unsure += f", about {guard.needed} more would tell"
    if config.needs_proof:
        return "undecided", f"the challenger is better by {shown}, but {unsure}"
    return "promote", f"the challenger is better by {shown}; {unsure}"


def describe_question(question: Question) -> str:
    """Return difference, interval and what they rest on, in words."""
    figures = f"{question.difference:+.4f} [{question.low:+.4f}, {question.high:+.4f}]"
    return f"{figures} on {_name_images(question)} (p {question.p_value:.3g}, {question.confidence:.4g} interval)"


def _name_images(question: Question) -> str:
    images = f"{question.n} test images of the {question.asked}" if "line" in question.asked else f"{question.n} images"
    return f"{images} ({question.groups} groups)" if question.groups < question.n else images

"""An alarm that is open from the first drift verdict until another version answers, and what it asks for meanwhile."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, Field

from regraft.data.drift.verdict import DriftVerdict

Action = Literal["none", "label", "retrain"]


class RetrainConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """When production has taught enough for a retraining."""

    min_labels: int = Field(100, ge=1)
    """New labelled production images that a retraining needs."""
    max_request: int = Field(200, ge=1)
    """Random labels asked for at once to settle an undecided challenger; it is judged again when they are there."""
    cool_down_s: float = Field(3600.0, ge=0)
    """Least time between two calls for a retraining of the same version, in seconds."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """State of one version between two looks; times are seconds since the epoch.

    ``judged_until`` is the time of the newest prediction that a window has covered: windows never overlap, because
    overlapping ones raise their false alarms in bursts.
    """

    judged_until: float | None = None
    opened_at: float | None = None
    kind: str = "none"
    reason: str = ""
    retrain_at: float | None = None

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None

    @property
    def after(self) -> float | None:
        """The earliest time that the next window may begin at; windows share no prediction."""
        return None if self.judged_until is None else math.nextafter(self.judged_until, math.inf)

    def decide(self, labels: int, labels_wanted: int, now: float, cool_down_s: float) -> tuple[Action, str]:
        """Return what is to be done now and why, in a sentence.

        Args:
            labels: Production images labelled since the alarm opened that no version has learned from.
            labels_wanted: How many a retraining needs.
            now: The present, seconds since the epoch.
            cool_down_s: Least time between two calls for a retraining.
        """
        if not self.is_open:
            return "none", "no alarm is open"
        if labels < labels_wanted:
            more = f"Label about {labels_wanted - labels} more images ({labels} of {labels_wanted} are there)."
            return "label", f"{self.reason} {more}"
        if self.retrain_at is not None and now - self.retrain_at < cool_down_s:
            left_s = cool_down_s - (now - self.retrain_at)
            return "none", f"a retraining was called for already; the next may be in {left_s:.0f} s"
        return "retrain", f"{self.reason} {labels} labelled images are enough to retrain."

    def advance(self, verdict: DriftVerdict, judged_until: float | None, now: float) -> "Alarm":
        """Return the alarm after one more verdict.

        A quiet window does not close an open alarm: the images that raised it were real, and only labels or another
        version can say that they did no harm.
        """
        alarm = replace(self, judged_until=judged_until)
        if verdict.decision == "drift" and not self.is_open:
            return replace(alarm, opened_at=now, kind=verdict.kind, reason=verdict.reason)
        return alarm

    def with_retrain(self, now: float) -> "Alarm":
        """Return this alarm with a retraining called for at ``now``."""
        return replace(self, retrain_at=now)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        return asdict(self)

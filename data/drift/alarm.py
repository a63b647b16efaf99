"""What is known of one version between two looks: an alarm that may be open, what it asks for, what closes it."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, Field

from regraft.data.drift.audit import Audit
from regraft.data.drift.slow_change import add_window
from regraft.data.drift.verdict import DriftVerdict

Action = Literal["none", "audit", "label", "retrain"]


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

    Attributes:
        judged_until: Time of the newest prediction that a window has covered: windows never overlap, because
            overlapping ones raise their false alarms in bursts.
        opened_at: When the alarm opened; None where none is open.
        began_at: Time of the first prediction of the window that opened it.
        kind: Of the change, as the verdict says; "slow" where no single window shows it.
        reason: Of the alarm, in a sentence; of the last one where none is open.
        harm: Whether an audit has found worse answers.
        retrain_at: When a retraining was called for last.
        slow: Sum of small suspicions, see ``slow_change``.
        quiet: Quiet windows in a row.
    """

    judged_until: float | None = None
    opened_at: float | None = None
    began_at: float | None = None
    kind: str = "none"
    reason: str = ""
    harm: bool = False
    retrain_at: float | None = None
    slow: float = 0.0
    quiet: int = 0

    @property
    def is_open(self) -> bool:
        return self.opened_at is not None

    @property
    def after(self) -> float | None:
        """The earliest time that the next window may begin at; windows share no prediction."""
        return None if self.judged_until is None else math.nextafter(self.judged_until, math.inf)

    def decide(self, labels: int, labels_wanted: int, now: float, cool_down_s: float) -> tuple[Action, str]:
        """Return what is to be done about a harmful change now and why, in a sentence.

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

    def advance(
        self, verdict: DriftVerdict, window: tuple[float, float], now: float, *, limit: float, quiet_windows: int
    ) -> "Alarm":
        """Return the state after one more window that was judged.

        Quiet windows in a row close an alarm by which no harm was found: what had changed is as before.

        Args:
            verdict: "quiet" or "drift".
            window: Times of its first and last prediction.
            now: The present.
            limit: Of the sum of small suspicions.
            quiet_windows: That close an alarm.
        """
        drifted = verdict.decision == "drift"
        state = replace(
            self,
            judged_until=window[1],
            slow=add_window(self.slow, verdict.p_value),
            quiet=0 if drifted else self.quiet + 1,
        )
        if self.is_open:
            gone = state.quiet >= quiet_windows and not self.harm
            return state.close(f"The last {state.quiet} windows look as before.") if gone else state
        if drifted:
            return replace(state, opened_at=now, began_at=window[0], kind=verdict.kind, reason=verdict.reason)
        if state.slow > limit:
            reason = "The images have changed little by little: no single window shows it, several together do."
            return replace(state, opened_at=now, began_at=window[0], kind="slow", reason=reason)
        return state

    def close(self, reason: str) -> "Alarm":
        """Return the state without an open alarm, and no suspicion left."""
        return Alarm(judged_until=self.judged_until, retrain_at=self.retrain_at, reason=reason)

    def settle(self, audit: Audit) -> "Alarm":
        """Return the state after an audit: closed where no harm was found, marked where it was."""
        if audit.outcome == "no harm":
            return self.close(
                f"{self.reason} {audit.right} of {audit.labels} audited answers are right: no harm found."
            )
        if audit.outcome == "harm" and not self.harm:
            found = f"{self.reason} {audit.wrong} of {audit.labels} audited answers are wrong."
            return replace(self, harm=True, reason=found)
        return self

    def with_retrain(self, now: float) -> "Alarm":
        """Return this alarm with a retraining called for at ``now``."""
        return replace(self, retrain_at=now)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able view."""
        return asdict(self)

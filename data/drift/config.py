"""The settings of the watch, and the thresholds that follow from the false alarms it may raise in a month."""

from pydantic import BaseModel, Field

MONTH_S = 30 * 86_400
"""Seconds."""
LARGEST_ALPHA = 0.05
"""Chance of a false alarm in a window beyond which no window is judged, however seldom one looks."""


class WatchConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """When a window counts as drifted, and what an audit must show before anybody labels a hundred images."""

    false_alarms_per_month: float = Field(1.0, gt=0, le=100)
    """Alarms in a month in which nothing changes, on average; half of them by single windows, half by slow change. The
    thresholds follow from it and from how many windows a month are judged."""
    min_window: int = Field(50, ge=10)
    """Distinct images below which the answer is "insufficient"."""
    min_told: int = Field(30, ge=5)
    """Independent images that those of a window must be worth: neighbours that resemble each other say less."""
    window: int = Field(200, ge=10)
    """Latest predictions that make up a window; windows should not overlap."""
    every_s: float = Field(300.0, gt=0)
    """Seconds between two looks when a schedule watches."""
    harmful_drop: float = Field(0.05, ge=0, le=1)
    """Fall of the estimated accuracy up to which the model is taken to work still."""
    audit_step: int = Field(10, ge=1)
    """Random images whose labels an open alarm asks for first, and again while they leave it open."""
    audit_most: int = Field(30, ge=0)
    """Of them at most, before an audit is decided either way; 0 asks for the labels of a retraining at once."""
    audited_drop: float = Field(0.15, gt=0, lt=1)
    """Fall of the accuracy that an audit is made to find; of that size it finds about nine in ten, of three times that
    size hardly any escapes the first ten labels."""
    quiet_windows: int = Field(3, ge=1)
    """Quiet windows in a row that close an alarm: what had changed is as before."""

    def limit_chance(self, windows_per_month: float) -> float:
        """Return the chance of a false alarm that each of so many windows may have, over all its tests together."""
        return min(LARGEST_ALPHA, self.false_alarms_per_month / 2 / windows_per_month)

    def count_quiet(self, windows_per_month: float) -> float:
        """Return the windows that should pass, on average, between two false alarms of slow change."""
        return max(20.0, windows_per_month / (self.false_alarms_per_month / 2))

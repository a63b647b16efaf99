"""Change that no single window shows: p-values that are a little too small, again and again, added up."""

import math

from scipy.optimize import brentq
from scipy.stats import norm

ALLOWANCE = 0.75
"""Standard deviations that a window may be off without adding to the sum: it is best at finding twice as much."""
OVERSHOOT = 1.166
"""By how much the sum exceeds a limit when it does; Siegmund's correction."""
SURPRISE = 8.0
"""Standard deviations that one window counts at most."""


def add_window(before: float, p_value: float) -> float:
    """Return the sum after one more window whose smallest corrected p-value is ``p_value``; 0 is no suspicion.

    Source: the one-sided cumulative sum of Page 1954, on normal scores.
    """
    score = float(norm.isf(min(max(p_value, 1e-300), 1.0)))
    return max(0.0, before + min(max(score, -SURPRISE), SURPRISE) - ALLOWANCE)


def count_windows(limit: float) -> float:
    """Return the quiet windows that pass on average before the sum of independent ones exceeds ``limit``.

    Source: Siegmund 1985, Sequential Analysis, 2.56.
    """
    reach = 2 * ALLOWANCE * (limit + OVERSHOOT)
    return (math.exp(reach) - reach - 1) / (2 * ALLOWANCE**2)


def find_limit(windows: float) -> float:
    """Return the limit of the sum that quiet windows exceed once in ``windows`` of them, on average; 20 at least."""
    return float(brentq(lambda limit: math.log(count_windows(limit)) - math.log(windows), 0.01, 60))

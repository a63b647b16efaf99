"""A duration as people write it: "90s", "10m", "1h"."""

import re

from regraft.tasks.settings.knobs import ParamsError

UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Return the seconds of "90s", "10m", "1h" or "600".

    Raises:
        ParamsError: If it is none of these, or not above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text.lower())
    if not found or float(found[1]) <= 0:
        raise ParamsError(f"a time budget looks like 90s, 10m, 1h or 600 (seconds), and is above 0; it got {text!r}")
    return float(found[1]) * UNITS[found[2]]

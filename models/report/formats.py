"""Figures in words: shares, levels and ranges as people write them, facts of any kind on a line."""

from collections.abc import Mapping
from typing import Any


def format_share(value: float | None) -> str:
    """Return a share as percent with one digit, a dash where there is none; 100 % only where nothing is missing."""
    if value is None:
        return "–"
    digits = 1 if value in (0, 1) or 0.0005 <= value < 0.9995 else 2
    return f"{100 * value:.{digits}f}\u00a0%"


def format_level(confidence: float) -> str:
    """Return a confidence as people write it: 0.95 as "95 %"."""
    return f"{100 * confidence:g}\u00a0%"


def format_range(row: Mapping[str, Any], score: str) -> str:
    """Return "low – high" of a score in percent, empty where there is none."""
    if f"{score}_low" not in row:
        return ""
    return f"{100 * row[f'{score}_low']:.1f} – {format_share(row[f'{score}_high'])}"


def format_value(value: Any) -> str:
    """Return a fact for people: floats short, lists joined, pairs as "name value"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)

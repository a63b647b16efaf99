"""The verdict on a dataset: one answer per expectation with its figures, and the text that tells a person about it."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

Observed = float | int | list[str]


class DataValidationError(ValueError):
    """A dataset that failed an expectation; raised by the stage, with the text of ``format_failures``."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class ExpectationVerdict:
    """One expectation: what was asked, what was seen, and who did not fulfil it.

    ``count`` files or classes did not, ``share`` (0-1) of those looked at; an expectation that allows a few may
    succeed with a count above 0. ``binding`` expectations stop the chain, the others are advice.
    """

    name: str
    success: bool
    expected: str
    observed: Observed
    threshold: Observed
    count: int
    share: float
    first_offenders: tuple[str, ...]
    advice: str
    binding: bool = True


@dataclass(frozen=True, slots=True)
class ValidationVerdict:
    """The verdict on a dataset; ``counts`` says how much was looked at.

    ``lost`` has the classes that are missing by permission, each with why; ``notes`` what the sources told.
    """

    expectations: tuple[ExpectationVerdict, ...]
    counts: dict[str, int]
    lost: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        """Whether every binding expectation is fulfilled."""
        return not self.failed

    @property
    def failed(self) -> tuple[ExpectationVerdict, ...]:
        """The binding expectations that are not fulfilled."""
        return tuple(item for item in self.expectations if item.binding and not item.success)

    @property
    def remarks(self) -> list[str]:
        """What people must know although nothing stops: lost classes, advice that was not met, notes; a line each."""
        lines = [f"without the class {label}, as allowed: {why}" for label, why in self.lost.items()]
        for item in self.expectations:
            if not (item.binding or item.success):
                hidden = item.count - len(item.first_offenders)
                more = f" and {hidden} more" if hidden > 0 else ""
                lines.append(f"{item.name}: {'; '.join(item.first_offenders)}{more}. {item.advice}")
        return [*lines, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return what ``validation.json`` holds."""
        return {"success": self.success, **json.loads(json.dumps(asdict(self))), "remarks": self.remarks}


def format_failures(verdict: ValidationVerdict) -> str:
    """Return a text that says which expectations failed, on what, and what to do; empty if none did."""
    if verdict.success:
        return ""
    failed, total = len(verdict.failed), len(verdict.expectations)
    lines = [f"{failed} of {total} expectations failed on {verdict.counts['images']} images"]
    for item in verdict.failed:
        lines.append(f"{item.name}: expected {item.expected}; observed {_show(item.observed)}, {item.count} offending")
        lines += [f"  - {offender}" for offender in item.first_offenders]
        if item.count > len(item.first_offenders) > 0:
            lines.append(f"  - and {item.count - len(item.first_offenders)} more")
        lines.append(f"  {item.advice}")
    return "\n".join(lines)


def _show(value: Observed) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:g}"

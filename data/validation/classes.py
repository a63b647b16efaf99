"""Classes that would be gone, or could not be learnt: found before anything is trained, and said by name."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from regraft.data.sources.entries import IntakeError
from regraft.data.sources.parts import PARTS
from regraft.data.sources.spelling import fold_spelling


class LostClassError(IntakeError):
    """A class that was named, or that the champion knows, has no image."""

    title = "classes would be lost"


class UntaughtClassError(IntakeError):
    """A class has images, but none that a model may learn from."""

    title = "classes that cannot be learnt"


def list_lost(wanted: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
    """Return the classes of ``wanted`` that have no image, each with why, or with the new class that looks like it."""
    looks = {fold_spelling(label): label for label in present}
    lost = {}
    for label, why in sorted(wanted.items()):
        if label not in present:
            other = looks.get(fold_spelling(label))
            lost[label] = f"{why}; {other!r} looks like it: was it renamed?" if other else why
    return lost


def check_lost(where: str, lost: Mapping[str, str], allowed: Collection[str]) -> None:
    """Refuse to go on without a class, unless its loss was allowed by name.

    Raises:
        LostClassError: Naming every class, why it has no image, and the way out.
    """
    problems = [f"{label}: {why}" for label, why in lost.items() if label not in allowed]
    if problems:
        flags = " ".join(f"--allow-lost {quote_label(label)}" for label in lost if label not in allowed)
        raise LostClassError(
            where, problems, f"Bring the images back. If a model without these classes is what you want: {flags}"
        )


def quote_label(label: str) -> str:
    """Return a label as a shell takes it."""
    return shlex.quote(label)


def explain_quarantine(label: str, quarantine: Iterable[Mapping[str, Any]]) -> str:
    """Return why a class that was listed with files has no image in the dataset."""
    reasons = Counter(item["reason"] for item in quarantine if item["label"] == label)
    shown = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return f"all of its files are in quarantine ({shown})" if shown else "no image of it was listed"


def check_taught(where: str, rows: Iterable[tuple[str, str]], least: int = 2) -> list[str]:
    """Return the classes that no image of the test part judges; refuse those that a model could not learn.

    Args:
        where: What was divided, for the message.
        rows: (label, part) of every distinct image.
        least: Training images that every class needs.

    Raises:
        UntaughtClassError: Naming each such class and where its images are.
    """
    counts: dict[str, Counter[str]] = {}
    for label, part in rows:
        counts.setdefault(label, Counter())[part] += 1
    problems = [
        f"{label}: {found['train']} of its {found.total()} images may be learnt from; "
        + ", ".join(f"{found[part]} {part}" for part in PARTS if found[part])
        for label, found in sorted(counts.items())
        if found["train"] < least
    ]
    if problems:
        raise UntaughtClassError(
            where,
            problems,
            "Add images to these classes, or take them out; a class needs four, so that every part gets some. An image "
            "that judged once never trains: it stays in its part also under another label or in another folder, and "
            "only a new workspace (regraft init) divides old images anew.",
        )
    return [label for label, found in sorted(counts.items()) if not found["test"]]

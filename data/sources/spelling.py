"""Class names that differ only in case, blanks or dashes: one class or several? Asked, never guessed."""

import re
import unicodedata
from collections.abc import Collection, Mapping

from regraft.data.sources.entries import IntakeError, clean_label

ALIKE = ("merge", "apart")


class SpellingQuestion(IntakeError):  # noqa: N818 - a question to the user
    """Class names that may mean one class; ``groups`` are the spellings that look alike."""

    title = "class names that may mean the same class"

    def __init__(self, where: str, groups: list[tuple[str, ...]], spellings: Mapping[str, int]) -> None:
        self.groups = groups
        super().__init__(
            where,
            [", ".join(f"{name!r} ({spellings[name]} images)" for name in group) for group in groups],
            "Rename them, or say it: --similar-labels merge makes each group one class, --similar-labels apart keeps "
            "them as classes of their own.",
        )


def fold_spelling(label: str) -> str:
    """Return what a class name looks like: without case, accents of form, and kinds of gaps between words."""
    plain = unicodedata.normalize("NFKC", label).casefold().strip()
    return re.sub(r"(?<=\w)[\s_\-]+(?=\w)", " ", plain)


def settle_spellings(
    where: str, spellings: Mapping[str, int], decided: Mapping[str, str], alike: str | None, known: Collection[str] = ()
) -> dict[str, str]:
    """Return the label of every spelling that has a look-alike.

    Args:
        where: The source, for the question.
        spellings: Images of each class name as it is written.
        decided: Answers given before, by spelling; they hold for these spellings only.
        alike: "merge" or "apart" decides what is new; None asks.
        known: Labels of the champion, the first choice of a spelling to merge into.

    Raises:
        SpellingQuestion: If names look alike and nothing says what they are.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(spellings):
        groups.setdefault(fold_spelling(name), []).append(name)
    similar = [tuple(names) for names in groups.values() if len(names) > 1]
    asked = [names for names in similar if not decided.keys() >= set(names)]
    if asked and alike is None:
        raise SpellingQuestion(where, asked, spellings)
    labels = {name: decided[name] for names in similar for name in names if names not in asked}
    for names in asked:
        best = min(names, key=lambda name: (name not in known, -spellings[name], name))
        labels |= {name: clean_label(best if alike == "merge" else name) for name in names}
    return labels

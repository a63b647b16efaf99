"""The three parts of a data set, and the many names that people give to their folders and columns."""

import re
from collections.abc import Iterable

PARTS = ("train", "validation", "test")
_WORDS = {
    "train": "train training trn tr learn learning fit",
    "validation": "val valid validate validation dev devel development",
    "test": "test testing tst",
}
_PARTS = {word: part for part, words in _WORDS.items() for word in words.split()}
_HELD_OUT = frozenset({"eval", "evaluation", "holdout", "heldout"})
"""Beside a test part they choose between models; alone they judge."""
_FILLER = r"(?:data|set|dataset|images?|imgs?|split|part|samples?|files?|folder)*"
_NAME = re.compile(rf"\d*{_FILLER}(?P<word>[a-z]+?){_FILLER}\d*")
_FOLD = re.compile(r"(?:cv|kfold|fold|split|partition)\d+|\d+(?:st|nd|rd|th)?fold")


def name_parts(names: Iterable[str]) -> dict[str, str]:
    """Return the part of each name that is a usual name of one: ``Train``, ``testing``, ``val_set``, ``hold-out``.

    Args:
        names: All names side by side; what "eval" means depends on the others.
    """
    words = {name: _find_word(name) for name in names}
    judge = "validation" if any(_PARTS.get(word) == "test" for word in words.values()) else "test"
    found = {name: judge if word in _HELD_OUT else _PARTS.get(word) for name, word in words.items()}
    return {name: part for name, part in found.items() if part}


def are_folds(names: Iterable[str]) -> bool:
    """Say whether the names number the folds of a cross-validation: fold1, fold_2, split-3."""
    plain = [_squeeze(name) for name in names]
    return len(plain) > 1 and all(_FOLD.fullmatch(name) for name in plain)


def _find_word(name: str) -> str:
    found = _NAME.fullmatch(_squeeze(name))
    return found["word"] if found else ""


def _squeeze(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())

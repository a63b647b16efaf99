"""What a stated licence is called in SPDX, and whether a policy written as patterns rules it out.

Cards and configs spell licences as their authors please. A pattern is therefore held against what is stated, against
its SPDX name where there is one, and against what it amounts to ("non-commercial", "agpl-3.0"), so that a spelling does
not decide whether weights may be used.
"""

import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

UNKNOWN = "unknown"
NON_COMMERCIAL = re.compile(
    r"\bnc\b|bync|ccnc|\bn[o0]n?[- ]?commerc|\bnot[- ]for[- ]commerc|\b(research|academic|evaluation|personal)"
    r"([- ](use|purposes?))?[- ]only\b|\bonly[- ]for[- ](research|academic)|\bfor[- ](research|academic)[- ]"
    r"(use|purposes?)|\bamlr\b"
)
COPYLEFT = re.compile(
    r"\b(?:gnu-)?(?:(?P<short>[al]?gpl)|(?P<long>affero|lesser|library|general)(?:-general)?-public)"
    r"(?:-?licen[cs]e)?-?(?:version|v)?-?(?P<version>[123](?:\.[0-9])?)?"
)
JOINED = re.compile(r"(\s+(?:and|or)\s+)", re.IGNORECASE)
LONG = {"affero": "agpl", "lesser": "lgpl", "library": "lgpl", "general": "gpl"}
ALIASES = {
    "apache": "Apache-2.0",
    "apache-2": "Apache-2.0",
    "apache2": "Apache-2.0",
    "apache2.0": "Apache-2.0",
    "expat": "MIT",
    "bsd-3": "BSD-3-Clause",
    "bsd-2": "BSD-2-Clause",
    "3-clause-bsd": "BSD-3-Clause",
    "new-bsd": "BSD-3-Clause",
    "cc0": "CC0-1.0",
    "cc-0": "CC0-1.0",
    "mpl-2": "MPL-2.0",
}


@dataclass(frozen=True, slots=True)
class Licence:
    """One licence as stated and as it is called.

    Attributes:
        stated: As the card or config says.
        spdx: Its SPDX expression, None where there is none for it.
        traits: What it amounts to, in lower case: "non-commercial", "agpl-3.0".
    """

    stated: str
    spdx: str | None
    traits: tuple[str, ...]

    @property
    def leaves_open(self) -> bool:
        """Return whether what is stated does not tell what may be done with the weights."""
        return slug(self.stated).split("-")[0] in (UNKNOWN, "other", "none", "unlicensed", "")

    def describe(self) -> str:
        """Return the licence in words: as stated, with its SPDX name where that is another, or what is left open."""
        if self.leaves_open:
            own = slug(self.stated).startswith("other")
            return f"{self.stated} ({'one of its own: read it' if own else 'none is stated'})"
        return self.stated if self.spdx in (None, self.stated) else f"{self.stated} (SPDX {self.spdx})"


def read_stated(stated: str) -> Licence:
    """Return what ``stated`` is called and amounts to."""
    text = slug(stated)
    found = COPYLEFT.search(text)
    traits = ["noncommercial", "non-commercial", "nc"] if NON_COMMERCIAL.search(text) else []
    if found:
        family = found["short"] or LONG[found["long"]]
        version = found["version"] or ""
        traits.append(f"{family}-{version if '.' in version or not version else version + '.0'}".rstrip("-"))
    return Licence(stated, name_spdx(stated, text, traits), tuple(traits))


def object_to_licence(stated: str, forbidden: Sequence[str]) -> str | None:
    """Return why a policy rules the licence ``stated`` out, None if it does not.

    Of alternatives ("MIT OR GPL-3.0-only") one that is allowed is enough; of licences that hold together each counts.

    Args:
        stated: As a card or config says.
        forbidden: Patterns, shell style; case does not matter.
    """
    whole = read_stated(stated)
    joint = whole.spdx is None or " AND " in f" {whole.spdx} " or " OR " not in whole.spdx
    pieces = JOINED.split(whole.spdx or stated)[::2]
    objections = [_match(read_stated(piece.strip("() ")), forbidden) for piece in pieces]
    if joint:
        # The whole too: a pattern may be meant for it, and not every stated text is an expression.
        objections = [objection for objection in (*objections, _match(whole, forbidden)) if objection]
    elif None in objections:
        return None
    if not objections:
        return None
    return f"its licence {whole.describe()} is ruled out by {objections[0]!r} in select.forbidden_licences"


def combine_licences(*stated: object) -> str:
    """Return what several places state of one backbone: once where they mean the same, else joined by AND."""
    said: dict[str, str] = {}
    for each in _flatten(stated):
        said.setdefault((read_stated(each).spdx or slug(each)).lower(), each)
    return " AND ".join(said.values()) or UNKNOWN


def slug(stated: str) -> str:
    """Return ``stated`` in lower case with single hyphens between its words."""
    plain = unicodedata.normalize("NFKC", stated).casefold()
    return re.sub(r"[^a-z0-9.+]+", "-", plain).strip("-.")


def name_spdx(stated: str, text: str, traits: Sequence[str]) -> str | None:
    """Return the SPDX expression that ``stated``, in words ``text``, means; None if it is none that SPDX knows."""
    pieces = JOINED.split(stated)
    if len(pieces) > 1:
        named = [read_stated(piece.strip("() ")).spdx for piece in pieces[::2]]
        if None in named or "(" in stated:
            return _canonicalize(stated)
        joints = [piece.strip().upper() for piece in pieces[1::2]]
        return " ".join(word for pair in zip(named, [*joints, ""], strict=True) for word in pair if word)
    shorter = re.sub(r"-?\b(the|licen[cs]ed?|version|public|international|unported|only-use)\b", "", text).strip("-")
    shorter = re.sub(r"\bv(?=[0-9])", "", shorter)
    for candidate in (stated, text, shorter, ALIASES.get(shorter), ALIASES.get(text), *_spell(shorter, traits)):
        if candidate and (found := _canonicalize(candidate)):
            return found
    return None


def _canonicalize(expression: str) -> str | None:
    try:
        return canonicalize_license_expression(expression)
    except InvalidLicenseExpression:
        return None


def _spell(text: str, traits: Sequence[str]) -> Iterable[str]:
    """Yield the SPDX names that the words of ``text`` may stand for."""
    yield from (f"{trait}-only" for trait in traits if re.fullmatch(r"[al]?gpl-[0-9.]+", trait))
    number = re.search(r"\b[1-4](\.[05])?$|(?<=-)[1-4]\.[05](?=-|$)", text)
    if number and (parts := _list_conditions(text)):
        yield f"cc-{'-'.join(parts)}-{number.group()}{'' if '.' in number.group() else '.0'}"


def _list_conditions(text: str) -> list[str]:
    """Return the short names of the conditions of a Creative Commons licence, none if it is no such licence."""
    if not re.search(r"\bcc|creative-?commons|\bby\b|attribution", text):
        return []
    conditions = (
        ("by", re.compile(r"\bby|attribution|ccby")),
        ("nc", NON_COMMERCIAL),
        ("nd", re.compile(r"\bnd\b|no-?deriv")),
        ("sa", re.compile(r"\bsa\b|share-?alike")),
    )
    return [name for name, words in conditions if words.search(text)]


def _match(licence: Licence, forbidden: Sequence[str]) -> str | None:
    forms = {licence.stated.lower(), slug(licence.stated), (licence.spdx or "").lower(), *licence.traits}
    return next((each for each in forbidden if any(fnmatch.fnmatchcase(form, each.lower()) for form in forms)), None)


def _flatten(stated: Iterable[object]) -> Iterable[str]:
    for each in stated:
        if isinstance(each, list | tuple):
            yield from _flatten(each)
        elif each:
            yield str(each)

"""What can be said of ``params.yaml`` and of ``--set`` without importing what the knobs configure (torch among it).

``tasks/settings/params.py`` checks everything; here is what a person waits for at the prompt: a mistyped key, one
section.
"""

import difflib
import functools
import logging
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Section = TypeVar("Section", bound=BaseModel)


logger = logging.getLogger(__name__)

RETIRED = {
    "gate.guarded": "the old line is always guarded",
    "gate.resamples": "the interval and its test are computed, not drawn",
    "gate.seed": "the interval and its test are computed, not drawn",
    "serve.max_pixels": "ingest.max_pixels is the limit everywhere, also at the endpoint",
}
"""Keys that older files may still hold, and what became of them; they are passed over with a word."""


class ParamsError(ValueError):
    """params.yaml does not say what regraft understands; the message lists every problem."""

    exit_code = 2


def parse_assignments(texts: list[str]) -> dict[str, Any]:
    """Return ``section.key=value`` texts as key and value.

    Raises:
        ParamsError: If one is malformed.
    """
    parsed = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (equals and all(key.strip().split(".")) and "." in key):
            raise ParamsError(f"--set takes section.key=value, for example finetune.budget_s=60; it got {text!r}")
        try:
            parsed[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParamsError(f"--set {text!r}: the value is not YAML: {error}") from error
    return parsed


def require_known(keys: Iterable[str]) -> None:
    """Raise ParamsError if none of ``keys`` names a knob; the parameters of a new workspace hold every one.

    Where some do, their values may be wrong too: whoever checks those names all problems at once.
    """
    keys = list(keys)
    written = yaml.safe_load(
        resources.files("regraft.tasks.workspace").joinpath("blueprint", "params.yaml").read_text()
    )
    known = set(_list_keys(written))
    problems = []
    for key in keys:
        if key in RETIRED:
            problems.append(f"{key} is no parameter any more: {RETIRED[key]}")
        elif key not in known and not any(key.startswith(f"{one}.") for one in known):
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            problems.append(f"{key}: there is no such key in params.yaml{f'; is it {near[0]}?' if near else ''}")
    if problems and len(problems) == len(keys):
        raise ParamsError("; ".join(problems))


def _list_keys(written: dict[str, Any], above: str = "") -> Iterable[str]:
    for name, value in written.items():
        if isinstance(value, dict) and value:
            yield from _list_keys(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def read_section(path: Path, name: str, kind: "type[Section]") -> "Section":
    """Return section ``name`` of the file at ``path``, checked; other sections are not looked at.

    Raises:
        ParamsError: Naming every unknown key and every value out of its range in that section.
    """
    from pydantic import ValidationError

    try:
        written = pass_over_retired(yaml.safe_load(path.read_text()) or {}, path)
        return kind.model_validate(written.get(name) or {})
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain_problems(error, name)}") from error


def pass_over_retired(content: Any, path: Path) -> Any:
    """Return what a file says without the keys that are no longer read; each is named once."""
    for key, instead in RETIRED.items():
        section, _, name = key.partition(".")
        group = content.get(section) if isinstance(content, dict) else None
        if isinstance(group, dict) and name in group:
            content = {**content, section: {n: value for n, value in group.items() if n != name}}
            _say_once(f"{path}: {key} = {group[name]} is no longer read; {instead}. Remove the line")
    return content


@functools.cache
def _say_once(text: str) -> None:
    logger.warning("%s", text)


def explain_problems(error: "ValidationError", section: str | None = None) -> str:
    """Return every problem as ``section.key: what is wrong with it (what it is)``."""
    above = () if section is None else (section,)
    problems = [
        f"{'.'.join(str(part) for part in (*above, *one['loc']))}: {one['msg']} (it is {one['input']!r})"
        for one in error.errors()
    ]
    return "; ".join(problems)

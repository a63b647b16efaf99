"""What can be said of ``params.yaml`` and of ``--set`` without importing what the knobs configure (torch among it).

``tasks/settings/params.py`` checks everything; here is what a person waits for at the prompt: a mistyped key, one
section. Keys of earlier versions are in ``earlier_keys.py``.
"""

import difflib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from regraft.tasks.settings.earlier_keys import RENAMED, RETIRED, update_keys
from regraft.tasks.settings.inheritance import COMMON, complete, find_source

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Section = TypeVar("Section", bound=BaseModel)


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
    known = {*_list_keys(written), *_list_keys(complete(written)), *RENAMED}
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


def read_content(text: str, path: Path) -> dict[str, Any]:
    """Return what the text of the file at ``path`` says, by the names that its keys have now.

    Raises:
        ParamsError: If it is not YAML, or not made of sections.
    """
    try:
        content = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ParamsError(f"{path} holds no sections but {content!r:.60}; regraft init DIR writes a complete file")
    return update_keys(content, path)


def read_section(path: Path, name: str, kind: "type[Section]") -> "Section":
    """Return section ``name`` of the file at ``path``, completed from ``common`` and checked.

    Other sections are not looked at, so a stage imports and refuses only what is its own.

    Raises:
        ParamsError: Naming every unknown key and every value out of its range in that section or in ``common``.
    """
    from pydantic import ValidationError

    content = read_content(path.read_text(), path)
    completed = complete(content)
    unknown = [key for key in completed if key.partition(".")[0] == COMMON]
    if unknown:
        raise ParamsError(f"{path}: {', '.join(unknown)}: no section inherits this")
    try:
        return kind.model_validate(completed.get(name) or {})
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain_problems(error, content, name)}") from error


def explain_problems(error: "ValidationError", content: Any, section: str | None = None) -> str:
    """Return every problem as ``section.key: what is wrong with it (what it is)``, each once and where it is written.

    Args:
        error: What checking found.
        content: What the file says, before it was completed from ``common``.
        section: The section that was checked; all of them when None.
    """
    above = () if section is None else (section,)
    problems = [
        f"{'.'.join(map(str, find_source(content, [*above, *one['loc']])))}: {one['msg']} (it is {one['input']!r})"
        for one in error.errors()
    ]
    return "; ".join(dict.fromkeys(problems))

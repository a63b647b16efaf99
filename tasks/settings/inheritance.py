"""What a section of ``params.yaml`` takes from the section ``common``; a key that it writes itself counts for it alone.

The classes of the sections know nothing of this, they get the values. Everything here is of plain mappings, as YAML
gives them, so that one section can be read without importing what the others configure. How DVC comes to watch what is
inherited is in ``watched.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

COMMON = "common"
INHERITED: dict[str, tuple[str, ...]] = {
    "split": ("seed",),
    "select": ("seed", "device", "threads"),
    "finetune": ("seed", "device", "threads", "loop"),
    "evaluate": ("seed", "device", "threads"),
    "certify": ("seed", "device", "threads", "loop"),
}
"""Stages and the keys of ``common`` that their sections inherit; ``dvc.yaml`` lists the same for each stage."""


def complete(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a file says with every section completed from ``common``, groups within a section key by key.

    Of ``common`` there is left what no section inherits, as ``common.key``: whoever checks the sections refuses it.
    """
    common = content.get(COMMON) or {}
    if COMMON not in content or not isinstance(common, Mapping):
        return content
    completed = {name: section for name, section in content.items() if name != COMMON}
    for name, keys in INHERITED.items():
        inherited = {key: common[key] for key in keys if key in common}
        if inherited:
            completed[name] = _fill(completed.get(name, {}), inherited)
    known = {key for keys in INHERITED.values() for key in keys}
    return completed | {f"{COMMON}.{key}": value for key, value in common.items() if key not in known}


def find_source(content: Any, path: Sequence[Any]) -> tuple[Any, ...]:
    """Return where the value at ``path`` (section, key, ...) is written: there, or at the same place in ``common``."""
    section, *rest = path
    inherits = bool(rest) and rest[0] in INHERITED.get(section, ())
    if inherits and not is_written(content, path) and is_written(content, [COMMON, *rest]):
        return (COMMON, *rest)
    return tuple(path)


def list_hiding(content: Any, key: str) -> list[str]:
    """Return the keys that hide ``common.key``, if every section that could inherit it writes its own; else none."""
    _, *path = key.split(".")
    heirs = [[section, *path] for section, keys in INHERITED.items() if path[0] in keys]
    return [".".join(heir) for heir in heirs] if all(is_written(content, heir) for heir in heirs) else []


def is_written(content: Any, path: Sequence[Any]) -> bool:
    """Say whether the mapping writes a value at ``path``."""
    for name in path:
        if not isinstance(content, Mapping) or name not in content:
            return False
        content = content[name]
    return True


def _fill(written: Any, inherited: Mapping[str, Any]) -> Any:
    """Return ``written`` with what it lacks of ``inherited``; anything but a group stays as it is written."""
    if not isinstance(written, Mapping):
        return written
    filled = dict(written)
    for key, value in inherited.items():
        if key not in written:
            filled[key] = value
        elif isinstance(value, Mapping):
            filled[key] = _fill(written[key], value)
    return filled

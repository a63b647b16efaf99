"""Keys that files of earlier versions may still hold: what became of them, and how they are read now.

A key that is called otherwise now is read under its new name for one release; a key that is gone is passed over. Both
are said once. To rename a knob, add a line to ``RENAMED``; to remove one, to ``RETIRED``.
"""

import functools
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

RETIRED = {
    "gate.guarded": "the old line is always guarded",
    "gate.resamples": "the interval and its test are computed, not drawn",
    "gate.seed": "the interval and its test are computed, not drawn",
    "serve.max_pixels": "ingest.max_pixels is the limit everywhere, also at the endpoint",
}
"""Keys that are no longer read, and why."""
RENAMED = {
    "select.race_budget_s": "select.halving_budget_s",
    "select.race_rounds": "select.halving_rounds",
    "select.race_images": "select.halving_images",
    "certify.arm_s": "certify.trial_s",
}
"""Old key and new key, both whole (``section.key``); in the same group, because DVC watches a stage's own section."""


def update_keys(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what the file at ``path`` says by the keys of this version."""
    for old, new in RENAMED.items():
        content = _rename(content, old.split("."), new, f"{path}: {old}")
    for key, instead in RETIRED.items():
        section, _, name = key.partition(".")
        group = content.get(section)
        if isinstance(group, dict) and name in group:
            content = {**content, section: {n: value for n, value in group.items() if n != name}}
            _warn_once(f"{path}: {key} = {group[name]} is no longer read; {instead}. Remove the line")
    return content


def update_key(key: str) -> str:
    """Return the key by which ``key``, as somebody gave it, is known now."""
    if key in RENAMED:
        _warn_once(f"{key} is called {RENAMED[key]} now; the old name is read for one release more")
    return RENAMED.get(key, key)


def list_old_names(key: str) -> list[str]:
    """Return the names that ``key`` had, the last part of each."""
    return [old.rpartition(".")[2] for old, new in RENAMED.items() if new == key]


def _rename(group: Any, names: list[str], new: str, said: str) -> Any:
    name, *rest = names
    if not isinstance(group, dict) or name not in group:
        return group
    if rest:
        return {**group, name: _rename(group[name], rest, new, said)}
    now = new.rpartition(".")[2]
    if now in group:
        _warn_once(f"{said} is called {new} now, which is there too and counts. Remove the line")
        return {key: value for key, value in group.items() if key != name}
    _warn_once(f"{said} is called {new} now; the old name is read for one release more. Rename it")
    return {now if key == name else key: value for key, value in group.items()}


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)

"""Which DVC objects a lock file needs: what must never be cleaned as long as the lock is kept."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import yaml

ReadObject = Callable[[str], bytes | None]


class UnknownNeedsError(RuntimeError):
    """It cannot be told what a lock needs, so nothing may be removed."""

    exit_code = 1


def list_needed(lock: str, read: ReadObject) -> set[str]:
    """Return the MD5 names of all objects that the outputs of a ``dvc.lock`` are made of.

    Args:
        lock: Content of the lock file; "" needs nothing.
        read: Returns the content of an object by its MD5, None if nobody holds it.

    Raises:
        UnknownNeedsError: If the listing of a folder is nowhere to be found.
    """
    needed: set[str] = set()
    for out in _list_outs(yaml.safe_load(lock) or {}):
        name = out.get("md5")
        if not name:
            continue
        needed.add(name)
        if name.endswith(".dir"):
            listing = read(name)
            if listing is None:
                raise UnknownNeedsError(
                    f"the listing {name} of {out.get('path')} is neither in the cache nor the remote"
                )
            needed |= {row["md5"] for row in json.loads(listing)}
    return needed


def _list_outs(lock: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for stage in lock.get("stages", {}).values():
        yield from stage.get("outs", [])

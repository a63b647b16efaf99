"""``backbones.lock.json``: which bytes a backbone's name stands for in this workspace, pinned at first use."""

import json
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from regraft.models.backbones.network import CONFIG_FILE, WEIGHTS_FILE, BackboneError
from regraft.serving.files.durable import hash_file, write_json


class Pin(BaseModel, frozen=True, extra="forbid"):
    """The bytes of one backbone and where they came from first."""

    sha256: str
    config_sha256: str
    bytes: int
    licence: str
    source: str


class PinError(BackboneError):
    """A name stands for other bytes here than those that came."""


PINS = TypeAdapter(dict[str, Pin])


def read_lock(path: Path) -> dict[str, Pin]:
    """Return the pins by name; none when the file is absent.

    Raises:
        BackboneError: If the file is there but is no lock file.
    """
    if not path.exists():
        return {}
    try:
        return PINS.validate_python(json.loads(path.read_text()))
    except (ValueError, ValidationError) as exc:
        raise BackboneError(f"{path} is no lock file of backbones ({exc}). Restore it from version control.") from exc


def pin_folder(folder: Path, licence: str, source: str) -> Pin:
    """Return the pin that describes a backbone folder."""
    weights = folder / WEIGHTS_FILE
    return Pin(
        sha256=hash_file(weights),
        config_sha256=hash_file(folder / CONFIG_FILE),
        bytes=weights.stat().st_size,
        licence=licence,
        source=source,
    )


def check_pin(name: str, found: Pin, lock: Path) -> Pin:
    """Return the pin of ``name``, adding ``found`` to the lock file when the name is new.

    Raises:
        PinError: If the name is pinned to other bytes.
    """
    pins = read_lock(lock)
    pinned = pins.get(name)
    if pinned is None:
        write_json(lock, {key: pin.model_dump() for key, pin in (pins | {name: found}).items()})
        return found
    differing = [
        f"{what} is {ours}, pinned is {theirs}"
        for what, ours, theirs in (
            (WEIGHTS_FILE, found.sha256, pinned.sha256),
            (CONFIG_FILE, found.config_sha256, pinned.config_sha256),
        )
        if ours != theirs
    ]
    if differing:
        raise PinError(
            f"backbone {name!r} from {found.source} is not what {lock.name} pins (SHA-256): {'; '.join(differing)}. "
            f"If a file was damaged, delete its folder and retrieve it anew; "
            f"if the new weights are wanted, remove {name!r} from {lock.name}."
        )
    return pinned

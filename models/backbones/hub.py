"""A pretrained backbone by name: from the workspace's store, a mirror, the repository itself or the Hugging Face hub.

Bytes at hand are never asked for over a network, so what ships with the repository comes before the hub. The places
are in ``models/backbones/sources.py``, the pinning in ``models/backbones/lock.py``.
"""

import difflib
import hashlib
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import regraft.models.compute.torchvision_gap
import regraft.models.embedded
import regraft.serving.silence
from regraft.models.backbones.lock import Pin, check_pin, pin_folder
from regraft.models.backbones.network import CONFIG_FILE, WEIGHTS_FILE, BackboneError, read_weights
from regraft.models.backbones.sources import (
    Agree,
    SourceFault,
    SourceMiss,
    fetch_from_folder,
    fetch_from_hub,
    fetch_from_url,
    hub_endpoint,
    list_folder,
    list_url,
    read_licence,
)
from regraft.serving.files.durable import hash_file, replace_folder

logger = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_\-]+)*")


class MirrorError(BackboneError):
    """The mirror gave no answer: what it has is not known, and nothing may be taken in its place."""


class LicenceRefused(BackboneError):  # noqa: N818 - an answer of the policy, not a fault
    """The stated licence was objected to before any weights were moved."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """Pretrained weights on this machine, hashed and pinned.

    Attributes:
        name: ``arch.tag`` as timm writes it.
        folder: Holds ``config.json`` and ``model.safetensors``.
        sha256: Of ``model.safetensors``.
        licence: As its card or config states, else "unknown".
        source: Where it came from first: "store", "mirror:<name or address>", "hub" or "embedded". No local path.
        bytes: Size of the weights.
    """

    name: str
    folder: Path
    sha256: str
    licence: str
    source: str
    bytes: int


def retrieve_backbone(
    name: str,
    *,
    store: Path,
    lock: Path,
    mirror: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    object_to: Callable[[str], str | None] | None = None,
) -> Backbone:
    """Return the backbone ``name``, brought into ``store`` if it is not there.

    Args:
        name: ``arch.tag``.
        store: Folder that keeps one folder per backbone.
        lock: File that pins the SHA-256 of each name; a new name is added.
        mirror: Folder, or http(s) address, with one folder per backbone.
        progress: Called with (bytes done, bytes in all) during a download.
        object_to: Gets the stated licence before any weights are moved; returns why they may not be, or None.

    Raises:
        LicenceRefused: If ``object_to`` objects.
        MirrorError: If the mirror gave no answer; nothing else is tried then.
        BackboneError: If no source has it (every one tried is named with its reason and the nearest names), or the
            bytes are not those pinned, or are not safetensors.
    """
    if not NAME.fullmatch(name):
        raise BackboneError(f"{name!r} is no backbone name; it looks like architecture.tag, resnet18.a1_in1k say.")
    folder = store / name
    if (folder / WEIGHTS_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        return settle_backbone(name, folder, lock, read_licence(folder), "store")
    tried = [("store", "not there")]
    for label, fetch in plan_sources(name, mirror, progress, lambda licence: require_agreement(licence, object_to)):
        partial = store / ".partial" / f"{name}.{hashlib.sha256(label.encode()).hexdigest()[:8]}"
        partial.mkdir(parents=True, exist_ok=True)
        try:
            licence = fetch(partial)
        except LicenceRefused:
            shutil.rmtree(partial)
            raise
        except SourceMiss as miss:
            if isinstance(miss, SourceFault) and label.startswith("mirror:"):
                raise MirrorError(
                    f"mirror {mirror} gave no answer about backbone {name!r}: {miss}. Nothing was taken in its place: "
                    "try again, correct select.mirror (--backbones), or set it to null."
                ) from miss
            tried.append((label, str(miss)))
            logger.info("backbone not found name=%s source=%s reason=%s", name, label, miss)
            continue
        return accept_backbone(name, partial, folder, lock, licence, label)
    raise BackboneError(describe_failure(name, tried, store, mirror))


def plan_sources(
    name: str, mirror: str | None, progress: Callable[[int, int], None] | None, agree: Agree = None
) -> list[tuple[str, Callable[[Path], str]]]:
    """Return what to try after the store, in order: a label and a function that fills a folder."""
    sources: list[tuple[str, Callable[[Path], str]]] = []
    if mirror is not None:
        check_mirror(mirror)
    if mirror is not None and is_address(mirror):
        sources.append(
            (f"mirror:{mirror.rstrip('/')}", lambda into: fetch_from_url(name, mirror, into, progress, agree))
        )
    elif mirror is not None:
        label = f"mirror:{Path(mirror).resolve().name}"
        sources.append((label, lambda into: fetch_from_folder(name, Path(mirror), into, agree)))
    sources.append(("embedded", lambda into: fetch_from_folder(name, embedded_folder(), into, agree)))
    sources.append(("hub", lambda into: fetch_from_hub(name, into, progress, agree)))
    return sources


def require_agreement(licence: str, object_to: Callable[[str], str | None] | None) -> None:
    """Raise ``LicenceRefused`` if ``object_to`` objects to ``licence``."""
    if object_to is not None and (objection := object_to(licence)) is not None:
        raise LicenceRefused(objection)


def is_address(mirror: str) -> bool:
    """Say whether ``mirror`` is a web address and not a folder.

    Raises:
        BackboneError: If it is an address of another kind.
    """
    if "://" in mirror and not mirror.startswith(("http://", "https://")):
        raise BackboneError(
            f"mirror {mirror!r} is neither a folder nor an http(s) address; nothing else is understood."
        )
    return "://" in mirror


def check_mirror(mirror: str) -> None:
    """Raise ``BackboneError`` if ``mirror`` is neither an http(s) address nor a folder that is there."""
    if not is_address(mirror) and not Path(mirror).is_dir():
        raise BackboneError(f"mirror {mirror} is not a folder. Correct select.mirror (--backbones), or set it to null.")


def embedded_folder() -> Path:
    """Return the folder of the backbones that ship with the repository."""
    return Path(regraft.models.embedded.__path__[0])


def accept_backbone(name: str, partial: Path, folder: Path, lock: Path, licence: str, source: str) -> Backbone:
    """Check freshly fetched files and move them to their place in the store, all or nothing."""
    try:
        read_weights(partial / WEIGHTS_FILE)
        check_pin(name, pin_folder(partial, licence, source), lock)
    except BackboneError:
        shutil.rmtree(partial)  # or the next attempt would resume from bytes known to be wrong
        raise
    for stray in [path for path in partial.iterdir() if path.name not in (CONFIG_FILE, WEIGHTS_FILE)]:
        stray.unlink()
    replace_folder(partial, folder)
    logger.info("backbone retrieved name=%s source=%s licence=%s", name, source, licence)
    return settle_backbone(name, folder, lock, licence, source)


def settle_backbone(name: str, folder: Path, lock: Path, licence: str, source: str) -> Backbone:
    """Check a folder of the store against the lock file and describe it as it was first pinned."""
    pin: Pin = check_pin(name, pin_folder(folder, licence, source), lock)
    return Backbone(name, folder, pin.sha256, pin.licence, pin.source, pin.bytes)


def list_backbones(mirror: str | None = None) -> list[str]:
    """Return the names at hand without the hub: the mirror's and the repository's own, sorted.

    Raises:
        BackboneError: If the mirror is no folder, cannot be asked or offers nothing; a short list must not be chosen
            from silently.
    """
    return sorted({*list_folder(embedded_folder()), *(list_mirror(mirror) if mirror is not None else [])})


def list_mirror(mirror: str) -> list[str]:
    """Return the names that a mirror offers, one at least.

    Raises:
        BackboneError: If it is no folder, cannot be asked or offers nothing.
    """
    check_mirror(mirror)
    names = list_url(mirror) if is_address(mirror) else list_folder(Path(mirror))
    if not names:
        raise BackboneError(
            f"mirror {mirror} offers no backbone: a folder with {CONFIG_FILE} and {WEIGHTS_FILE} for each is expected. "
            "Correct select.mirror (--backbones), or set it to null."
        )
    return names


def list_offers(mirror: str | None = None) -> dict[str, list[str]]:
    """Return the backbones on offer with what tells one from another of its name, as far as it can be had at once.

    Of a folder that is the hash of its config and the size of its weights, of an address nothing but the name.

    Raises:
        BackboneError: As ``list_backbones``.
    """
    places = [embedded_folder(), *([Path(mirror)] if mirror is not None and not is_address(mirror) else [])]
    offers: dict[str, list[str]] = {name: [] for name in list_backbones(mirror)}
    for folder in (place / name for place in places for name in list_folder(place)):
        config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        offers[folder.name].append(hash_file(config) if config.is_file() else "no config")
        offers[folder.name].append(str(weights.stat().st_size) if weights.is_file() else "no weights")
    return offers


def describe_failure(name: str, tried: list[tuple[str, str]], store: Path, mirror: str | None) -> str:
    """Say what was tried, why each failed, and which names are near."""
    import timm

    places = {"hub": f"hub {hub_endpoint()}", "store": f"store {store}", "embedded": "embedded in the repository"}
    lines = [f"  {places.get(label, label)}: {reason}" for label, reason in tried]
    here = sorted({*list_folder(store), *list_folder(embedded_folder()), *(list_nearby(mirror))})
    near = difflib.get_close_matches(name, [*here, *timm.list_pretrained()], n=5, cutoff=0.5)
    hints = f"Nearest names: {', '.join(near) or 'none'}. At hand: {', '.join(here) or 'none'}."
    return "\n".join([f"backbone {name!r} cannot be had. Tried, in order:", *lines, hints])


def list_nearby(mirror: str | None) -> list[str]:
    """Return the mirror's names, or none if it cannot be listed: this only decorates an error."""
    try:
        return list_backbones(mirror)
    except BackboneError:
        return []

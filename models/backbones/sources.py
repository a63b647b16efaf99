"""The places a backbone's files can come from: a folder, a web address with the same layout, the Hugging Face hub.

Each ``fetch_*`` fills a folder with ``config.json`` and ``model.safetensors`` and returns the licence, or raises
``SourceMiss`` with the reason. The licence is shown to ``agree`` before any weights are moved; what that raises ends
the retrieval. Pickled weights are never touched.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import regraft.serving.silence  # noqa: F401  the hub's client reads its switches when it is imported

# isort: split
import httpx
import huggingface_hub
import yaml
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from regraft.models.backbones.downloads import DownloadError, download_file, fetch_page
from regraft.models.backbones.licences import combine_licences
from regraft.models.backbones.network import CONFIG_FILE, WEIGHTS_FILE, BackboneError, read_config
from regraft.serving.files.durable import hash_file

try:
    import httpx2 as hub_http  # the hub's client speaks through it since its second version
except ImportError:
    hub_http = httpx

PICKLED = (".bin", ".pth", ".pt", ".ckpt")
HUB_TIMEOUT_S = 10
Progress = Callable[[int, int], None] | None
Agree = Callable[[str], None] | None


class SourceMiss(Exception):  # noqa: N818  not an error: the next source is asked
    """A source does not have the backbone; the message says why."""

    exit_code = None


class SourceFault(SourceMiss):
    """A source gave no answer, so nothing says that it lacks the backbone; the message says what came instead."""


def refuse_pickles(names: Iterable[str]) -> None:
    """Raise ``SourceMiss`` for a listing without safetensors, naming pickled weights if it holds any."""
    names = list(names)
    if WEIGHTS_FILE in names and CONFIG_FILE in names:
        return
    pickled = sorted(name for name in names if name.endswith(PICKLED))
    if pickled and WEIGHTS_FILE not in names:
        raise SourceMiss(f"has only pickled weights ({', '.join(pickled)}), which can run code and are refused")
    raise SourceMiss(f"lacks {' and '.join(n for n in (CONFIG_FILE, WEIGHTS_FILE) if n not in names)}")


def read_licence(folder: Path, card: object = None) -> str:
    """Return the licence a backbone's card or config states, as stated; "unknown" if neither does.

    Args:
        folder: Holds ``config.json`` and perhaps the card, ``README.md``.
        card: What the hub's card states under ``license``, with ``license_name`` where it is "other".

    Where card and config state different ones both hold.
    """
    if card is None and (folder / "README.md").is_file():
        card = read_card((folder / "README.md").read_text(errors="replace"))
    config = read_config(folder)
    pretrained = config.get("pretrained_cfg")
    pretrained = pretrained if isinstance(pretrained, dict) else {}
    return combine_licences(card, pretrained.get("license") or config.get("license"))


def read_card(text: str) -> object:
    """Return what the front matter of a model card states of its licence, None if nothing."""
    found = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        stated = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        stated = None
    if not isinstance(stated, dict):
        return None
    return name_licence(stated.get("license"), stated.get("license_name"))


def name_licence(licence: object, name: object) -> object:
    """Return ``licence``, or where it is "other" that together with the ``name`` it goes by."""
    return f"other ({name})" if str(licence).lower() == "other" and name else licence


def fetch_from_folder(name: str, root: Path, into: Path, agree: Agree = None) -> str:
    """Copy ``root/name``; return its licence."""
    folder = root / name
    if not folder.is_dir():
        raise SourceMiss("no folder of that name")
    refuse_pickles(path.name for path in folder.iterdir())
    licence = read_licence(folder)
    if agree is not None:
        agree(licence)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(folder / file, into / file)
    return licence


def fetch_from_url(name: str, root: str, into: Path, progress: Progress = None, agree: Agree = None) -> str:
    """Download ``root/name/``; return the licence its config states."""
    try:
        download_file(f"{root.rstrip('/')}/{name}/{CONFIG_FILE}", into / CONFIG_FILE)
        licence = read_licence(into)
        if agree is not None:
            agree(licence)
        download_file(f"{root.rstrip('/')}/{name}/{WEIGHTS_FILE}", into / WEIGHTS_FILE, progress=progress)
    except DownloadError as exc:
        raise (SourceMiss if exc.absent else SourceFault)(str(exc)) from exc
    return licence


def hub_endpoint() -> str:
    """Return the hub's address: HF_ENDPOINT or the public one."""
    return os.environ.get("HF_ENDPOINT", huggingface_hub.constants.ENDPOINT).rstrip("/")


def fetch_from_hub(name: str, into: Path, progress: Progress = None, agree: Agree = None) -> str:
    """Download ``timm/name`` from the Hugging Face hub; return the licence of its card.

    The hub's own client asks what is there, follows HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE; the bytes come through
    ``download_file``, because the client drops what it has when its process dies.
    """
    if huggingface_hub.constants.is_offline_mode() or os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True"):
        raise SourceMiss("HF_HUB_OFFLINE forbids to ask it")
    endpoint, repo = hub_endpoint(), f"timm/{name}"
    try:
        info = huggingface_hub.HfApi(endpoint=endpoint).model_info(repo, timeout=HUB_TIMEOUT_S)
        refuse_pickles(sibling.rfilename for sibling in info.siblings or [])
        fetch_hub_file(endpoint, repo, CONFIG_FILE, info.sha, into / CONFIG_FILE, None)
        card = info.card_data
        stated = name_licence(getattr(card, "license", None), getattr(card, "license_name", None))
        licence = read_licence(into, stated)
        if agree is not None:
            agree(licence)
        fetch_hub_file(endpoint, repo, WEIGHTS_FILE, info.sha, into / WEIGHTS_FILE, progress)
    except RepositoryNotFoundError as exc:
        raise SourceMiss(f"has no repository {repo}, or it is private and HF_TOKEN does not open it") from exc
    except OfflineModeIsEnabled as exc:
        raise SourceMiss("HF_HUB_OFFLINE forbids to ask it") from exc
    except (HfHubHTTPError, DownloadError, OSError, hub_http.TransportError) as exc:
        raise SourceFault(f"{type(exc).__name__}: {exc}".splitlines()[0]) from exc
    return licence


def fetch_hub_file(endpoint: str, repo: str, file: str, revision: str | None, path: Path, progress: Progress) -> None:
    """Download one file of a hub repository at a commit; check the hub's own SHA-256 where it states one."""
    url = huggingface_hub.hf_hub_url(repo, file, revision=revision, endpoint=endpoint)
    metadata = huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S, endpoint=endpoint)
    # The redirect to the storage host is followed by httpx, which does not carry the token to another host.
    download_file(url, path, headers=huggingface_hub.utils.build_hf_headers(), progress=progress)
    if metadata.etag and re.fullmatch(r"[0-9a-f]{64}", metadata.etag) and hash_file(path) != metadata.etag:
        found = hash_file(path)
        path.unlink()
        raise BackboneError(
            f"{url} arrived with SHA-256 {found}, but the hub states {metadata.etag}. "
            "The download was damaged or altered on the way; it was deleted, so try again."
        )


def list_folder(root: Path) -> list[str]:
    """Return the names of the folders that hold a backbone or a part of one, sorted."""
    if not root.is_dir():
        return []
    parts = (CONFIG_FILE, WEIGHTS_FILE)
    folders = [path for path in root.iterdir() if not path.name.startswith(".")]
    return sorted(path.name for path in folders if any((path / part).is_file() for part in parts))


def list_url(root: str) -> list[str]:
    """Return the names a web folder's index page links to, sorted.

    Raises:
        BackboneError: If the mirror cannot be asked or has no index page; a short list must not be chosen from.
    """
    try:
        page = fetch_page(root.rstrip("/") + "/")
    except DownloadError as exc:
        advice = (
            "It has no index page: name its backbones in select.candidates."
            if exc.absent
            else "Check the address and that it is reachable, or try again."
        )
        raise BackboneError(f"mirror {root} cannot be listed: {exc}. {advice}") from exc
    return sorted(set(re.findall(r'href="(?:\./)?([A-Za-z0-9_]+(?:\.[A-Za-z0-9_\-]+)*)/"', page)))

"""One file over HTTP into place, resumed where an earlier attempt (or an earlier process) broke off."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from regraft.serving.files.durable import sync_folder, sync_tree

logger = logging.getLogger(__name__)

ATTEMPTS = 4
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


BUSY = (429, 500, 502, 503, 504)
"""Answers of a server that may be another one in a moment."""
ABSENT = (403, 404, 410)
"""Answers that say that there is nothing of the name; stores of objects say 403 for it."""


class DownloadError(RuntimeError):
    """A file could not be had: says the address and the reason; ``absent`` if the server says that it has none."""

    exit_code = 1

    def __init__(self, message: str, *, absent: bool = False) -> None:
        super().__init__(message)
        self.absent = absent


class ServerBusy(Exception):  # noqa: N818  asked again, then a DownloadError
    """The server's answer may be another one in a moment."""

    exit_code = 1


def download_file(
    url: str,
    path: Path,
    *,
    headers: Mapping[str, str] | None = None,
    pause_s: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fetch ``url`` to ``path``; ``path`` appears only when it is complete.

    What has arrived is kept in ``<name>.part`` beside it with the server's validator (ETag or date), so that the next
    call asks only for the rest, and starts anew if the file has changed in between.

    Args:
        url: http or https.
        path: Where to put the file; the folder is made.
        headers: Sent along.
        pause_s: Wait before the second attempt, doubled after each.
        progress: Called with (bytes done, bytes in all).

    Raises:
        DownloadError: If the server answers an error, or all attempts broke off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    reason = "no attempt made"
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT, headers=dict(headers or {})) as client:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(pause_s * 2 ** (attempt - 1))
            try:
                if continue_download(client, url, part, progress):
                    finish_download(part, path)
                    return
                reason = "the connection closed before the end"
            except httpx.ConnectError as exc:
                raise DownloadError(f"{url}: cannot connect ({exc})") from exc
            except (httpx.TransportError, ServerBusy) as exc:
                reason = f"{type(exc).__name__}: {exc}"
            logger.warning("download broke off url=%s attempt=%d reason=%s", url, attempt + 1, reason)
    raise DownloadError(f"{url}: broke off {ATTEMPTS} times ({reason}); what arrived is kept, so call again to go on")


def continue_download(client: httpx.Client, url: str, part: Path, progress: Callable[[int, int], None] | None) -> bool:
    """Fetch what ``part`` lacks; say whether it is complete now."""
    request = {"Accept-Encoding": "identity"}
    validator = part.with_name(part.name + ".validator")
    have = part.stat().st_size if part.exists() and validator.exists() else 0
    if have:
        request |= {"Range": f"bytes={have}-", "If-Range": validator.read_text()}
    with client.stream("GET", url, headers=request) as response:
        if response.status_code == 416:  # nothing beyond what we have, or nonsense: start again
            part.unlink()
            return continue_download(client, url, part, progress)
        require_answer(url, response)
        have = have if response.status_code == 206 else 0
        total = have + int(response.headers.get("Content-Length", -1 - have))
        # A weak ETag may not be used with If-Range; without any validator the next attempt starts at zero.
        tag = response.headers.get("ETag", "")
        tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        validator.write_text(tag) if tag else validator.unlink(missing_ok=True)
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, max(total, have))
    return total < 0 or have == total


def fetch_page(url: str, *, pause_s: float = 1.0) -> str:
    """Return the text at ``url``, asked again where the connection or the server fails.

    Args:
        url: http or https.
        pause_s: Wait before the second attempt, doubled after each.

    Raises:
        DownloadError: If the server answers an error, or all attempts failed.
    """
    reason: Exception | None = None
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            response = httpx.get(url, follow_redirects=True, timeout=TIMEOUT)
            require_answer(url, response)
            return response.text
        except httpx.ConnectError as exc:
            raise DownloadError(f"{url}: cannot connect ({exc})") from exc
        except (httpx.TransportError, ServerBusy) as exc:
            reason = exc
            logger.warning("page not had url=%s attempt=%d reason=%s", url, attempt + 1, exc)
    raise DownloadError(f"{url}: failed {ATTEMPTS} times ({type(reason).__name__}: {reason})")


def require_answer(url: str, response: httpx.Response) -> None:
    """Raise unless ``response`` brings what was asked for.

    Raises:
        ServerBusy: If it may do so in a moment.
        DownloadError: If not.
    """
    said = f"HTTP {response.status_code} {response.reason_phrase}"
    if response.status_code in BUSY:
        raise ServerBusy(said)
    if response.status_code not in (200, 206):
        raise DownloadError(f"{url}: {said}", absent=response.status_code in ABSENT)


def finish_download(part: Path, path: Path) -> None:
    """Give the complete file its name, durably."""
    part.with_name(part.name + ".validator").unlink(missing_ok=True)
    sync_tree(part.parent)
    part.replace(path)
    sync_folder(path.parent)

"""A running endpoint from Python, sync and async; refusals are exceptions that say what to do."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from PIL import Image
from pydantic import BaseModel

from regraft.model import Picture, read_bytes

TIMEOUT_S = 30.0


class Answer(BaseModel):
    """What ``/predict`` says; ``id`` is what a label is given for."""

    id: str
    label: str
    probability: float
    probabilities: dict[str, float]
    version: str


class Receipt(BaseModel):
    """What ``/feedback`` says; ``trainable`` is false where the image was not kept or no longer is what was sent."""

    id: str
    label: str
    version: str
    predicted: str
    trainable: bool


class EndpointError(RuntimeError):
    """The endpoint refused or did not answer.

    Attributes:
        status: HTTP status; None if there was no answer.
        code: What went wrong, for programs; None if there was no answer.
    """

    exit_code = 1

    def __init__(self, message: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Client:
    """An endpoint, asked one request at a time; use it as a context manager, or ``close`` it.

    Args:
        url: Its address, as ``regraft serve`` prints it.
        timeout_s: Seconds that an answer may take.
    """

    def __init__(self, url: str = "http://127.0.0.1:3000", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=timeout_s)

    def predict(self, image: Picture) -> Answer:
        """Name what an image shows: a path, the bytes of a file, an array or a Pillow image.

        Raises:
            EndpointError: With the endpoint's reason, or its address if it does not answer.
        """
        return Answer.model_validate(self._ask("POST", "/predict", files={"image": _name_file(image)}))

    def feedback(self, answer: Answer | str, label: str) -> Receipt:
        """Say the right label of an earlier answer, or of the ``id`` of one."""
        return Receipt.model_validate(self._ask("POST", "/feedback", json=_name_label(answer, label)))

    def version(self) -> dict[str, Any]:
        """Return what the endpoint says of the version that answers."""
        return self._ask("GET", "/version")

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        try:
            reply = self._http.request(method, path, **body)
        except httpx.HTTPError as error:
            raise _explain_silence(self.url, error) from error
        return _read(self.url, reply)


class AsyncClient:
    """``Client`` for ``async`` code: it is made with the same arguments, and every method is awaited."""

    def __init__(self, url: str = "http://127.0.0.1:3000", timeout_s: float = TIMEOUT_S) -> None:
        self.url = url
        self._http = httpx.AsyncClient(base_url=url, timeout=timeout_s)

    async def predict(self, image: Picture) -> Answer:
        """See ``Client.predict``."""
        return Answer.model_validate(await self._ask("POST", "/predict", files={"image": _name_file(image)}))

    async def feedback(self, answer: Answer | str, label: str) -> Receipt:
        """See ``Client.feedback``."""
        return Receipt.model_validate(await self._ask("POST", "/feedback", json=_name_label(answer, label)))

    async def version(self) -> dict[str, Any]:
        """See ``Client.version``."""
        return await self._ask("GET", "/version")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        try:
            reply = await self._http.request(method, path, **body)
        except httpx.HTTPError as error:
            raise _explain_silence(self.url, error) from error
        return _read(self.url, reply)


def _name_file(image: Picture) -> tuple[str, bytes]:
    name = "image.png" if isinstance(image, bytes | np.ndarray | Image.Image) else Path(image).name
    return name, read_bytes(image)


def _name_label(answer: Answer | str, label: str) -> dict[str, str]:
    return {"id": answer if isinstance(answer, str) else answer.id, "label": label}


def _explain_silence(url: str, error: httpx.HTTPError) -> EndpointError:
    return EndpointError(f"no answer from {url}: {error}. Is it up? regraft serve")


def _read(url: str, reply: httpx.Response) -> dict[str, Any]:
    if reply.status_code == 200:
        return reply.json()
    try:
        said = reply.json()
    except ValueError:
        said = {}
    message = "; ".join(str(said[name]) for name in ("error", "advice") if said.get(name)) or reply.text
    raise EndpointError(f"{url} refused with {reply.status_code}: {message}", reply.status_code, said.get("code"))

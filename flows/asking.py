"""Ask for the label of image files: the champion in this process, or a running endpoint over HTTP."""

from pathlib import Path
from typing import Any

from serving.preprocess import decode_image, prepare_image
from serving.registry import Registry
from serving.runtime import ModelHandle
from tasks.workspace import Workspace, WorkspaceError


class AskError(RuntimeError):
    """The endpoint refused or could not be reached."""


def ask_champion(home: Workspace, images: list[Path]) -> list[dict[str, Any]]:
    """Answer for each image with the workspace's champion, loaded here."""
    champion = Registry(home.models_store).pointer().champion
    if champion is None:
        raise WorkspaceError(
            f"{home.root} has no champion; make one with: regraft train --workspace {home.root} --data DIR"
        )
    handle = ModelHandle.open(home.models_store / "versions" / champion)
    answers = []
    for image in images:
        pixels = prepare_image(decode_image(_read(image)).pixels, handle.info.preprocess)
        probabilities = handle.predict(pixels[None]).probabilities[0]
        named = dict(zip(handle.info.labels, (float(p) for p in probabilities), strict=True))
        label = max(named, key=named.__getitem__)
        answers.append(
            {
                "image": str(image),
                "label": label,
                "probability": named[label],
                "probabilities": named,
                "version": champion,
            }
        )
    return answers


def ask_endpoint(url: str, images: list[Path]) -> list[dict[str, Any]]:
    """Answer for each image with what ``POST <url>/predict`` says.

    Raises:
        AskError: With the endpoint's reason if it refuses, or the address if it does not answer.
    """
    import httpx

    answers = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for image in images:
            try:
                reply = client.post("/predict", files={"image": (image.name, _read(image))})
            except httpx.HTTPError as error:
                raise AskError(f"no answer from {url}: {error}. Is it up? regraft serve") from error
            if reply.status_code != 200:
                raise AskError(f"{url} refused {image} with {reply.status_code}: {reply.text}")
            answers.append({"image": str(image), **reply.json()})
    return answers


def _read(image: Path) -> bytes:
    if not image.is_file():
        raise WorkspaceError(f"{image} is not a file")
    return image.read_bytes()

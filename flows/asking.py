"""Ask for the label of image files: the champion in this process, or a running endpoint over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.serving.decoding.preprocess import ImageError, load_input
from regraft.serving.http.problems import IMAGE_STATUS, ProblemError
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace, WorkspaceError

if TYPE_CHECKING:
    from regraft.data.dataset.ingest import IngestConfig
    from regraft.serving.bundle.runtime import ModelHandle


class AskError(RuntimeError):
    """The endpoint refused or could not be reached."""

    exit_code = 1


def ask_champion(home: Workspace, images: list[Path]) -> list[dict[str, Any]]:
    """Answer for each image with the workspace's champion, loaded here; one that cannot be read has an ``error``.

    Raises:
        WorkspaceError: If there is no champion, or an image is no file.
    """
    champion = Registry(home.models_store).pointer().champion
    if champion is None:
        raise WorkspaceError(
            f"{home.root} has no champion; make one with: regraft train --workspace {home.root} --data DIR"
        )
    _require_files(images)
    # Only now, and only this section: the whole of params.yaml comes with torch, which answering needs not.
    from regraft.data.dataset.ingest import IngestConfig
    from regraft.serving.bundle.runtime import ModelHandle

    limits = read_section(home.params, "ingest", IngestConfig)
    handle = ModelHandle.open(home.models_store / "versions" / champion)
    return [{"image": str(image)} | _ask_handle(handle, image, limits) | {"version": champion} for image in images]


def _ask_handle(handle: "ModelHandle", image: Path, limits: "IngestConfig") -> dict[str, Any]:
    try:
        if (size := image.stat().st_size) > limits.max_bytes:
            problem = f"the file has {size} bytes, at most {limits.max_bytes} are read"
            raise ImageError("too_large", problem, "scale it down, or raise ingest.max_bytes")
        pixels = load_input(image.read_bytes(), handle.info.preprocess, max_pixels=limits.max_pixels)
    except ImageError as error:
        return ProblemError.of_image(error).to_json()
    probabilities = handle.predict(pixels[None]).probabilities[0]
    named = dict(zip(handle.info.labels, (float(p) for p in probabilities), strict=True))
    label = max(named, key=named.__getitem__)
    return {"label": label, "probability": named[label], "probabilities": named}


def ask_endpoint(url: str, images: list[Path]) -> list[dict[str, Any]]:
    """Answer for each image with what ``POST <url>/predict`` says; one that it cannot read has an ``error``.

    Raises:
        AskError: With the endpoint's reason if it refuses to work, or the address if it does not answer.
        WorkspaceError: If an image is no file.
    """
    import httpx

    _require_files(images)
    answers = []
    with httpx.Client(base_url=url, timeout=30) as client:
        for image in images:
            try:
                reply = client.post("/predict", files={"image": (image.name, image.read_bytes())})
            except httpx.HTTPError as error:
                raise AskError(f"no answer from {url}: {error}. Is it up? regraft serve") from error
            if reply.status_code not in (200, *IMAGE_STATUS.values()):
                raise AskError(f"{url} refused {image} with {reply.status_code}: {reply.text}")
            answers.append({"image": str(image)} | reply.json())
    return answers


def _require_files(images: list[Path]) -> None:
    absent = [str(image) for image in images if not image.is_file()]
    if absent:
        raise WorkspaceError(f"not a file: {', '.join(absent)}")

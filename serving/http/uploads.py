"""Reads what clients post, in any legal or illegal form, and rewrites it into the one clean form the endpoints get.

Text in the file field is refused here: BentoML would take it for a URL and fetch it.
"""

import json
import secrets
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from regraft.serving.http.problems import ProblemError

FIELD = "image"
MAX_PARTS = 16
RAW_TYPES = ("image/", "application/octet-stream")
HOW = f"send one file in the multipart field {FIELD!r}, as curl -F {FIELD}=@photo.jpg does"


class _Parser(MultiPartParser):
    spool_max_size = 0  # keep parts in memory: the body they come from is there already, and it is bounded


async def rewrite_upload(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Return (content type, body) of a form that holds exactly the uploaded file.

    Raises:
        ProblemError: 415 for another content type, 422 for a form without exactly one file in the image field.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        data = await _read_form(content_type, body)
    elif kind.startswith(RAW_TYPES):
        data = body
    else:
        raise ProblemError(415, "not_a_form", f"the content type is {kind or 'missing'!r}", HOW)
    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="{FIELD}"; filename="{FIELD}"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    return f"multipart/form-data; boundary={boundary}", head.encode() + data + f"\r\n--{boundary}--\r\n".encode()


def rewrite_feedback(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Return (content type, body) of a JSON object with exactly the texts ``id`` and ``label``.

    Raises:
        ProblemError: 415 for another content type, 422 for anything but such an object.
    """
    advice = 'send {"id": "<id from /predict>", "label": "<the right label>"} as application/json'
    kind = content_type.split(";")[0].strip().lower()
    if kind != "application/json":
        raise ProblemError(415, "not_json", f"the content type is {kind or 'missing'!r}", advice)
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ProblemError(422, "not_json", f"the body is not JSON ({exc})", advice) from exc
    if not isinstance(value, dict):
        raise ProblemError(422, "not_an_object", f"the body is a JSON {type(value).__name__}, not an object", advice)
    wrong = [name for name in ("id", "label") if not isinstance(value.get(name), str) or not value[name]]
    wrong += [f"{name} (unknown)" for name in value if name not in ("id", "label")]
    if wrong:
        raise ProblemError(422, "wrong_fields", f"not a text, empty, missing or unknown: {', '.join(wrong)}", advice)
    try:
        return "application/json", json.dumps({"id": value["id"], "label": value["label"]}, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:  # a lone surrogate is legal JSON and no text
        raise ProblemError(422, "wrong_fields", "id or label is not Unicode text", advice) from exc


async def _read_form(content_type: str, body: bytes) -> bytes:
    parser = _Parser(
        Headers({"content-type": content_type}),
        _stream(body),
        max_files=MAX_PARTS,
        max_fields=MAX_PARTS,
        max_part_size=64 * 1024,
    )
    try:
        form = await parser.parse()
    except MultiPartException as exc:
        raise ProblemError(422, "broken_form", f"the multipart form cannot be read ({exc.message})", HOW) from exc
    except Exception as exc:  # a missing or odd boundary or header raises KeyError, ValueError, LookupError...
        raise ProblemError(422, "broken_form", f"the multipart form cannot be read ({exc!r})", HOW) from exc
    try:
        return await _pick_file(form.multi_items())
    finally:
        await form.close()


async def _pick_file(items: list[tuple[str, UploadFile | str]]) -> bytes:
    values = [value for name, value in items if name == FIELD]
    if not values:
        names = ", ".join(repr(name[:40]) for name, _ in items[:MAX_PARTS]) or "none"
        raise ProblemError(422, "no_image", f"the form has no field {FIELD!r} (fields: {names})", HOW)
    if len(values) > 1:
        raise ProblemError(422, "several_images", f"the form has {len(values)} fields {FIELD!r}", HOW)
    if isinstance(values[0], str) or not values[0].filename:
        advice = f"{HOW}; texts and URLs are not fetched"
        raise ProblemError(422, "not_a_file", f"the field {FIELD!r} is not a file with a name", advice)
    return await values[0].read()


async def _stream(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body

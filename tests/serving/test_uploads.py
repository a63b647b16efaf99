"""Whatever clients post becomes one clean form, or one clear no."""

import asyncio
import json

import pytest

from regraft.serving.http.limits import BodyLimits
from regraft.serving.http.problems import ProblemError
from regraft.serving.http.uploads import rewrite_feedback, rewrite_upload


def form(*parts: tuple[str, bytes], boundary: str = "xx") -> tuple[str, bytes]:
    """Return (content type, body) of a form with parts of (Content-Disposition parameters, content)."""
    body = b"".join(
        b"--%s\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), content)
        for head, content in parts
    )
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


def read_back(content_type: str, body: bytes) -> bytes:
    boundary = content_type.partition("boundary=")[2].encode()
    head, _, rest = body.partition(b"\r\n\r\n")
    assert head.count(b"name=") == 2 and head.startswith(b"--" + boundary)
    return rest.removesuffix(b"\r\n--" + boundary + b"--\r\n")


def code(content_type: str, body: bytes) -> tuple[int, str]:
    with pytest.raises(ProblemError) as caught:
        asyncio.run(rewrite_upload(content_type, body))
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("name", ["a.jpg", "../../etc/passwd", "-rf", "ü😀.png", "x" * 255, "C:\\a.png", "a\tb"])
@pytest.mark.parametrize("content", [b"", b"pixels", b"\r\n--xx\x00", bytes(range(256)) * 9000])
def test_the_file_arrives_byte_for_byte_whatever_its_name(name, content):
    uploaded = form((f'name="image"; filename="{name}"', content), ('name="note"', b"hello"))
    assert read_back(*asyncio.run(rewrite_upload(*uploaded))) == content


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG", "application/octet-stream", "image/foo; q=1"])
def test_a_bare_image_body_is_taken_too(kind):
    assert read_back(*asyncio.run(rewrite_upload(kind, b"pixels"))) == b"pixels"


@pytest.mark.parametrize("kind", ["", "text/plain", "application/json", "application/x-www-form-urlencoded"])
def test_other_content_types_are_415(kind):
    assert code(kind, b"image=http://127.0.0.1/") == (415, "not_a_form")


def test_text_in_the_file_field_is_refused_not_fetched():
    assert code(*form(('name="image"', b"http://169.254.169.254/latest"))) == (422, "not_a_file")
    assert code(*form(('name="image"; filename=""', b"http://localhost/"))) == (422, "not_a_file")


def test_forms_without_exactly_one_image_are_422():
    part = 'name="image"; filename="a"'
    assert code(*form()) == (422, "no_image")
    assert code(*form(('name="file"; filename="a"', b"x"))) == (422, "no_image")
    assert code(*form((part, b"x"), (part, b"y"))) == (422, "several_images")
    assert code(*form((part, b"x"), ('name="image"', b"http://localhost/"))) == (422, "several_images")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=", b"x"),
        ("multipart/form-data; boundary=xx", b""),
        ("multipart/form-data; boundary=xx", b"garbage"),
        ("multipart/form-data; boundary=yy", form(('name="image"; filename="a"', b"x"))[1]),
        (
            "multipart/form-data; boundary=xx",
            b'--xx\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--xx--',
        ),
        ("multipart/form-data; boundary=xx", b"--xx\r\n\r\nx\r\n--xx--\r\n"),
        ("multipart/form-data; boundary=xx; charset=nonsense", form(('name="image"', b"x"))[1]),
        form(*[('name="image"; filename="a"', b"x")] * 1000),
        form(*[('name="a"', b"x")] * 1000),
        form(('name="note"', b"x" * 100_000), ('name="image"; filename="a"', b"x")),
    ],
)
def test_broken_forms_are_422(content_type, body):
    assert code(content_type, body)[0] == 422


def test_clean_feedback_is_rewritten_to_its_two_texts():
    kind, body = rewrite_feedback("application/json; charset=utf-8", '{"label": "größe", "id": "x"}'.encode())
    assert kind == "application/json" and json.loads(body) == {"id": "x", "label": "größe"}


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("text/plain", b"{}", (415, "not_json")),
        ("", b"{}", (415, "not_json")),
        ("application/json", b"", (422, "not_json")),
        ("application/json", b"\xff", (422, "not_json")),
        ("application/json", b"[" * 8000, (422, "not_json")),
        ("application/json", b"[]", (422, "not_an_object")),
        ("application/json", b"{}", (422, "wrong_fields")),
        ("application/json", b'{"id": 1, "label": "a"}', (422, "wrong_fields")),
        ("application/json", b'{"id": "x", "label": null}', (422, "wrong_fields")),
        ("application/json", b'{"id": "x", "label": "a", "extra": 1}', (422, "wrong_fields")),
        ("application/json", b'{"id": "x", "label": "\\ud800"}', (422, "wrong_fields")),
    ],
)
def test_other_feedback_is_refused(kind, body, expected):
    with pytest.raises(ProblemError) as caught:
        rewrite_feedback(kind, body)
    assert (caught.value.status, caught.value.code) == expected


def post(
    chunks: list[bytes], *, wait_s: float = 0.0, headers: tuple = (), app=None, **limits
) -> tuple[int, dict, list]:
    """Send a chunked POST /predict through BodyLimits and return (status, answer, bodies that reached the endpoint)."""
    reached, sent, pending = [], [], list(chunks)

    async def endpoint(scope, receive, send) -> None:
        reached.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive() -> dict:
        await asyncio.sleep(wait_s)
        assert pending, "asked for more than the client sends"
        return {"type": "http.request", "body": pending.pop(0), "more_body": bool(pending)}

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict"}
    scope["headers"] = [(b"content-type", b"image/png"), *headers]
    options = {"max_body_bytes": 10_000, "max_in_flight": 2, "body_timeout_s": 5.0} | limits
    asyncio.run(BodyLimits(endpoint, **options)(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"]), reached


def test_a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not():
    status, _, reached = post([b"x" * 9_999, b"x"])
    assert status == 200 and b"x" * 10_000 in reached[0]
    status, answer, reached = post([b"x" * 9_999, b"x", b"x"])
    assert (status, answer["code"], reached) == (413, "too_large", [])
    assert answer["error"] and answer["advice"]


def test_an_announced_size_over_the_limit_is_refused_unread():
    status, answer, reached = post([b"x"], headers=((b"content-length", b"10001"),))
    assert (status, answer["code"], reached) == (413, "too_large", [])


def test_a_dripping_body_is_cut_off():
    status, answer, _ = post([b"x"] * 1000, wait_s=0.01, body_timeout_s=0.05)
    assert (status, answer["code"]) == (408, "too_slow")


def test_more_requests_than_are_worked_on_at_once_are_503_with_retry_after():
    statuses, headers = [], []

    async def endpoint(scope, receive, send) -> None:
        await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
            headers.append(dict(message["headers"]))

    async def burst() -> None:
        limits = BodyLimits(endpoint, max_body_bytes=100, max_in_flight=3, body_timeout_s=5.0)
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"content-type", b"image/png")]}
        for _ in range(2):  # places are given back
            await asyncio.gather(*(limits(scope, receive, send) for _ in range(5)))

    asyncio.run(burst())
    assert sorted(statuses) == [200] * 6 + [503] * 4
    assert all(
        head.get(b"retry-after") == b"1" for head, status in zip(headers, statuses, strict=True) if status == 503
    )

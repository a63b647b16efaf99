"""ASGI middleware before the endpoints that take a body: how many at once, how large, how slow, in what form."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.serving.http.bodies import Arrivals
from regraft.serving.http.problems import ProblemError
from regraft.serving.http.uploads import rewrite_feedback, rewrite_upload

MAX_FEEDBACK_BYTES = 16 * 1024
DRAIN_S = 2.0
ARRIVING_A_PLACE = 16
"""Bodies that may be on their way at once, for each place among the requests that are worked on."""


class BodyLimits:
    """Reads each body within its limits and hands the endpoint a clean one; everything else is answered here.

    A place among those worked on is taken when the body is there, and each path has its own places. Bodies on their way
    are bounded in number and bytes together; over that, the one on its way the longest is cut.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_in_flight: int,
        body_timeout_s: float,
        on_refusal: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.app = app
        self._limits = {"/predict": max_body_bytes, "/feedback": min(max_body_bytes, MAX_FEEDBACK_BYTES)}
        self._places = dict.fromkeys(self._limits, max_in_flight)
        self._timeout_s = body_timeout_s
        self._on_refusal = on_refusal
        self._arrivals = Arrivals(ARRIVING_A_PLACE * max_in_flight, max_in_flight * max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; see the ASGI specification."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in self._limits:
            await self.app(scope, receive, send)
            return
        try:
            self._require_place(scope["path"])  # a full house says so before it reads
            body = await self._read_body(scope, receive)
            if body is not None:
                await self._work_on(scope, receive, send, body)
        except ProblemError as exc:
            self._on_refusal(exc.code)
            await exc.to_response()(scope, receive, send)

    def _require_place(self, path: str) -> None:
        if self._places[path] < 1:
            problem = f"as many requests to {path} as are allowed are being worked on"
            raise ProblemError(503, "overloaded", problem, "try again in a second", retry_after_s=1)

    async def _work_on(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        self._require_place(scope["path"])
        self._places[scope["path"]] -= 1
        try:
            await self._pass_on(scope, receive, send, body)
        finally:
            self._places[scope["path"]] += 1

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        content_type = Headers(scope=scope).get("content-type", "")
        if scope["path"] == "/predict":
            content_type, body = await rewrite_upload(content_type, body)
        else:
            content_type, body = rewrite_feedback(content_type, body)
        replaced = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding")
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in replaced]
        headers += [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
        await self.app({**scope, "headers": headers}, _replay(body, receive), send)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, or None if the client has gone; an announced size is checked before reading."""
        limit, headers = self._limits[scope["path"]], Headers(scope=scope)
        announced = headers.get("content-length", "")
        too_large = announced.isdigit() and int(announced) > limit
        more_comes = "expect" not in headers  # such a client sends nothing before we read
        body = bytearray()
        async with self._arrivals.take_in(self._timeout_s) as arrival:
            while not too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                more_comes = message.get("more_body", False)
                too_large = len(body) > limit
                if not more_comes and not too_large:
                    return bytes(body)
                self._arrivals.grow(arrival, len(body))
        if more_comes:
            await _drain(receive)
        raise ProblemError(413, "too_large", f"the body is larger than {limit} bytes", "send a smaller file")


async def _drain(receive: Receive) -> None:
    """Throw away what still comes, for a moment: a client in the middle of sending would not read our answer."""
    try:
        async with asyncio.timeout(DRAIN_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        return


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Return a ``receive`` that gives ``body`` once and then waits for the client to leave."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay

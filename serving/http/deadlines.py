"""How long a client may take with what ASGI does not see: to send its headers, to read its answer, to say nothing.

uvicorn waits for ever for headers; ``be_patient_no_longer`` puts its HTTP protocol with deadlines in its place.
"""

import asyncio
import contextlib
import json
import resource
from collections import OrderedDict
from typing import Any, ClassVar

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADERS_S = 10.0
"""From the first byte of a request, or from the connection, to the end of its headers; then 408 or a closed door."""
WRITE_S = 30.0
"""An answer of which the client reads nothing for so long is given up."""
MAX_CONNECTIONS = 4096
"""More are not held: the one that has gone longest without a request leaves first."""
SPARE_FILES = 256
"""Descriptors kept for models, logs and images."""

_LATE = {"error": "the headers did not arrive in time", "code": "too_slow", "advice": "send the request again"}


class PatientProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's protocol, in which each connection without a request in progress has a deadline and a place in line."""

    waiting: ClassVar["OrderedDict[PatientProtocol, None]"] = OrderedDict()
    """Connections of this process without a request in progress, longest first."""
    max_connections: ClassVar[int] = MAX_CONNECTIONS
    headers_s: ClassVar[float] = HEADERS_S

    def connection_made(self, transport: Any) -> None:
        """Count the connection in, and the one without a request longest out where there are too many."""
        super().connection_made(transport)
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._has_sent = False
        self._wait_for_headers()
        self.waiting[self] = None
        if len(self.connections) > self.max_connections:
            oldest, _ = self.waiting.popitem(last=False)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self._stop_timer("_write_timer")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the deadline holds from the first of a request and is not moved by the next."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        else:
            self._has_sent = True
            self._wait_for_headers()

    def on_response_complete(self) -> None:
        """Go to the end of the line; uvicorn itself closes a connection that stays silent from here."""
        self._has_sent = False
        if not self.transport.is_closing():
            self.waiting[self] = None
            self.waiting.move_to_end(self)
        super().on_response_complete()
        if self.cycle is not None and not self.cycle.response_complete:  # the next one had arrived already
            self._stop_waiting()

    def pause_writing(self) -> None:
        """Set a deadline for the client to read on."""
        super().pause_writing()
        self._stop_timer("_write_timer")
        self._write_timer = self.loop.call_later(WRITE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Lift it."""
        self._stop_timer("_write_timer")
        super().resume_writing()

    def _wait_for_headers(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.headers_s, self._give_up)

    def _stop_waiting(self) -> None:
        self.waiting.pop(self, None)
        self._stop_timer("_header_timer")

    def _stop_timer(self, name: str) -> None:
        timer = getattr(self, name, None)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _give_up(self) -> None:
        self._header_timer = None
        if self.transport.is_closing():
            return
        if self._has_sent:
            body = json.dumps(_LATE).encode()
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\n" + head.encode() + body)
        self.transport.close()


def be_patient_no_longer(headers_s: float) -> None:
    """Let every uvicorn server that this process starts use ``PatientProtocol``, with room for its connections.

    Args:
        headers_s: Seconds until the headers must be there.
    """
    PatientProtocol.headers_s = headers_s
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        PatientProtocol.max_connections = max(16, min(MAX_CONNECTIONS, soft - min(SPARE_FILES, soft // 2)))
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:PatientProtocol"

"""Request bodies on their way: each has a deadline, and together they are bounded in number and bytes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from regraft.serving.http.problems import ProblemError


class Arrival:
    """One body on its way: the bytes that are here, and the timeout that can cut it."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self.size, self.timeout, self.is_cut = 0, timeout, False


class Arrivals:
    """All bodies on their way. Where there are too many, the oldest is cut: whoever sends his body gets through."""

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count, self._max_bytes = max_count, max_bytes
        self._on_their_way: dict[Arrival, None] = {}  # in the order of their coming
        self._bytes = 0

    @contextlib.asynccontextmanager
    async def take_in(self, timeout_s: float) -> AsyncIterator[Arrival]:
        """Count one body in for the length of a ``with`` block.

        Raises:
            ProblemError: 408 if the block takes longer than ``timeout_s`` seconds, 503 if the body was cut for others.
        """
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                arrival = Arrival(timeout)
                self._on_their_way[arrival] = None
                try:
                    self._cut_oldest()
                    yield arrival
                finally:
                    self._on_their_way.pop(arrival, None)
                    self._bytes -= arrival.size
        except TimeoutError as exc:
            if arrival.is_cut:
                problem = "too many bodies are on their way, and this one has been for the longest"
                raise ProblemError(503, "overloaded", problem, "send it again", retry_after_s=1) from exc
            problem = f"the body had not arrived after {timeout_s:g} s"
            raise ProblemError(408, "too_slow", problem, "send it again, or a smaller file") from exc

    def grow(self, arrival: Arrival, size: int) -> None:
        """Note that ``size`` bytes of a body are here by now."""
        if not arrival.is_cut:
            self._bytes += size - arrival.size
            arrival.size = size
            self._cut_oldest()

    def _cut_oldest(self) -> None:
        while len(self._on_their_way) > self._max_count or self._bytes > self._max_bytes:
            oldest = next(iter(self._on_their_way), None)
            if oldest is None:
                return
            del self._on_their_way[oldest]
            self._bytes -= oldest.size
            oldest.size, oldest.is_cut = 0, True
            if not oldest.timeout.expired():
                oldest.timeout.reschedule(asyncio.get_running_loop().time())

"""The threads that decode uploads, and the one that notices if a decoder never comes back.

effort.py refuses what is known to be slow. This is for what is not yet: a thread inside a C library cannot be ended,
so the process has to be, by whoever is told.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

STUCK_S = 90.0
"""CPU time of one image; above what effort.py lets pass on any machine."""
LOOK_S = 1.0


class Decoders:
    """A few threads; ``on_stuck`` is called once, from another thread, when one has worked too long on one image."""

    def __init__(self, count: int, on_stuck: Callable[[], None], *, stuck_s: float = STUCK_S) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decode")
        self._on_stuck, self._stuck_s = on_stuck, stuck_s
        self._since: dict[int, float] = {}  # what the clock of each busy thread said when its image came
        self._is_closing = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="decode-watch", daemon=True)
        self._watcher.start()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what ``work`` returns, or raise what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._time, work, arguments)

    def close(self, timeout_s: float) -> bool:
        """Take nothing more; return whether all threads were done within ``timeout_s`` seconds."""
        self._is_closing.set()
        self._watcher.join()
        idle = threading.Thread(target=self._threads.shutdown, kwargs={"cancel_futures": True}, daemon=True)
        idle.start()
        idle.join(timeout_s)
        return not idle.is_alive()

    def _time(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> T:
        me = threading.get_ident()
        self._since[me] = _read_clock(me)
        try:
            return work(*arguments)
        finally:
            del self._since[me]

    def _watch(self) -> None:
        while not self._is_closing.wait(LOOK_S):
            for thread, since in list(self._since.items()):
                if _read_clock(thread) - since > self._stuck_s:
                    self._on_stuck()
                    return


def _read_clock(thread: int) -> float:
    """Return the CPU seconds of a living thread, or the time where the system does not tell (macOS)."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.monotonic()

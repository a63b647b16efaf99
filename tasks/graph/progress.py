"""What a waiting person sees: a bar with the remaining time on a terminal, a line now and then elsewhere.

Library functions only take a callback ``progress(done, total)``; here it becomes something to look at.
"""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
QUIET_INTERVAL_S = 15.0
"""Seconds between two lines when nobody watches a terminal."""
REDRAW_S = 0.5
"""Seconds between two drawings on a terminal: a terminal may be a recorded one, or at the end of a slow line."""
BAR_WIDTH = 30
ERASE_REST = "\x1b[K"
"""Of the line, right of the cursor; written before a log line too, or the end of a longer bar would stay behind it."""


@contextmanager
def announce(name: str) -> Iterator[None]:
    """Say when the step ``name`` starts and, at its end, how long it took."""
    started = time.perf_counter()
    logger.info("%s started", name)
    yield
    logger.info("%s finished seconds=%.1f", name, time.perf_counter() - started)


@contextmanager
def show_progress(label: str) -> Iterator[Progress]:
    """Yield a ``progress(done, total)`` that draws a bar on a terminal and logs a line now and then elsewhere."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _Bar(label, sys.stderr).drawn() as progress:
            yield progress
    else:
        yield _Lines(label)


class _Bar:
    """One line of a terminal, drawn again at most every ``REDRAW_S`` and only if it would look different.

    The cursor is left at the start of the line, so that a log line writes over the bar and not behind it.
    """

    def __init__(self, label: str, stream: TextIO) -> None:
        self.label, self.stream = label, stream
        self.started = time.monotonic()
        self.done, self.total = 0, 0
        self.shown = ""

    @contextmanager
    def drawn(self) -> Iterator[Progress]:
        """Draw from another thread while the block runs: work that says nothing for a while has a clock too."""
        ended = threading.Event()
        thread = threading.Thread(target=self._draw_until, args=(ended,), name="progress", daemon=True)
        thread.start()
        try:
            yield self._note
        finally:
            ended.set()
            thread.join()
            if self.shown:
                self._write("")

    def _note(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    def _draw_until(self, ended: threading.Event) -> None:
        while not ended.wait(REDRAW_S):
            text = self._describe()[: shutil.get_terminal_size().columns - 1]
            if text != self.shown:
                self._write(text)

    def _write(self, text: str) -> None:
        self.stream.write(f"{text}{ERASE_REST}\r")
        self.stream.flush()
        self.shown = text

    def _describe(self) -> str:
        spent_s = time.monotonic() - self.started
        if not self.total:
            return f"  {self.label:<28} {_clock(spent_s)} passed"
        filled = round(BAR_WIDTH * min(1.0, self.done / self.total))
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        left = f"  {_clock(spent_s / self.done * (self.total - self.done))} left" if self.done else ""
        return f"  {self.label:<28} [{bar}] {self.done}/{self.total}  {_clock(spent_s)} passed{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class _Lines:
    """Progress as log lines, for files and for the Prefect UI."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = self.spoken = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.spoken >= QUIET_INTERVAL_S and 0 < done < total:
            self.spoken = now
            left = (now - self.started) / done * (total - done)
            logger.info("%s %d/%d left_s=%.0f", self.label, done, total, left)

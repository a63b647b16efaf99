"""What a waiting person sees: a bar with the remaining time on a terminal, a line now and then elsewhere.

Library functions only take a callback ``progress(done, total)``; here it becomes something to look at.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
QUIET_INTERVAL_S = 15.0
"""Seconds between two lines when nobody watches a terminal."""


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
    if sys.stderr.isatty():
        with _bar(label) as progress:
            yield progress
    else:
        yield _Lines(label)


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("  {task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("passed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


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

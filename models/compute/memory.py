"""Memory that stays with the process while networks compute: what a batch gives back, the next one takes again.

glibc gives every large block back to the kernel when it is freed, and asks for it anew a moment later. The kernel
hands out each page of it emptied, at the first touch; where the machine is itself a guest of another, that can cost
more than the layer that writes it.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Names of glibc's ``mallopt``."""
USUAL = {TRIM_THRESHOLD: 128 * 1024, MMAP_MAX: 65536, ARENA_MAX: 0}
"""What glibc starts with."""
KEEPING = {TRIM_THRESHOLD: -1, MMAP_MAX: 0, ARENA_MAX: 1}
"""Nothing is given back, every block comes from the heap, and all threads share it."""
HUGE_PAGES = 14
"""``MADV_HUGEPAGE``: the kernel may back the range with pages of 2 MiB, a five-hundredth of the first touches."""

_lock = threading.Lock()
_depth = 0


@contextmanager
def keep_memory() -> Iterator[None]:
    """Inside the block freed memory stays with the process; after the outermost one it goes back to the system.

    A process holds as much as it held at its fullest moment until the block ends. Without glibc nothing is changed.
    """
    global _depth
    with _lock:
        _depth += 1
        if _depth == 1:
            _start_keeping()
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                _give_back()


@cache
def _open_glibc() -> Any:
    """Return the C library where it is glibc, else None."""
    try:
        library = ctypes.CDLL(None)
        for name in ("gnu_get_libc_version", "mallopt", "malloc_trim", "malloc", "free", "madvise"):
            getattr(library, name)
    except (AttributeError, OSError, TypeError):  # no such library, no such function, no such way to ask
        return None
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library


def _start_keeping() -> None:
    if (library := _open_glibc()) is None:
        logger.debug("no glibc: freed memory goes back to the system as it pleases")
        return
    for name, value in KEEPING.items():
        library.mallopt(name, value)
    _ask_for_huge_pages(library, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


def _ask_for_huge_pages(library: Any, size: int) -> None:
    """Have the heap's next ``size`` bytes of addresses backed by huge pages; no byte of them is touched here."""
    if not (block := library.malloc(size)):
        return  # the process may not have so many addresses
    page = os.sysconf("SC_PAGE_SIZE")
    first = -(-block // page) * page
    library.madvise(first, (block + size - first) // page * page, HUGE_PAGES)
    library.free(block)


def _give_back() -> None:
    if (library := _open_glibc()) is None:
        return
    for name, value in USUAL.items():
        library.mallopt(name, value)
    library.malloc_trim(0)

"""Memory that stays with the process while networks compute, and goes back to the system after."""

import ctypes
import resource
from pathlib import Path

import numpy as np
import pytest

from regraft.models.compute import memory
from regraft.models.compute.memory import keep_memory

pytestmark = pytest.mark.skipif(memory._open_glibc() is None, reason="needs glibc, whose settings these are")
BLOCK = 64 * 2**20


def count_faults(rounds=4):
    """Return how often the kernel had to hand out a page while a large block was written and freed, again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        np.ones(BLOCK, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def measure_resident():
    """Return the bytes of memory that the process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_freed_block_is_taken_again_without_the_kernel():
    outside = count_faults()
    with keep_memory():
        count_faults(1)
        inside = count_faults()
    assert outside > 50  # by huge pages where the machine has them, else by the thousand
    assert inside < outside / 20


def test_memory_stays_until_the_outermost_block_ends_and_then_goes_back():
    with keep_memory():
        with keep_memory():
            count_faults(1)
        kept = measure_resident()
        assert count_faults() < 20
    assert measure_resident() < kept - BLOCK / 2
    assert count_faults() > 50


def test_settings_are_the_usual_ones_again_after_an_error():
    with pytest.raises(ValueError, match="planted"), keep_memory():
        raise ValueError("planted")
    assert memory._depth == 0
    assert count_faults() > 50


def test_without_glibc_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(memory, "_open_glibc", lambda: None)
    with keep_memory():
        assert count_faults() > 50


def test_addresses_that_are_refused_are_done_without():
    class Refusing:
        malloc = staticmethod(lambda size: None)
        madvise = free = staticmethod(lambda *args: pytest.fail("a block that is not there was touched"))

    memory._ask_for_huge_pages(Refusing, ctypes.sizeof(ctypes.c_long))

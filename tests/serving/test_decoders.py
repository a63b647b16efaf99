"""A decoder that never comes back is noticed; one that waits or works in vain is not."""

import asyncio
import threading
import time

import pytest

from regraft.serving.endpoint import decoders
from regraft.serving.endpoint.decoders import Decoders


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(decoders, "LOOK_S", 0.01)


def burn(until: threading.Event) -> None:
    while not until.is_set():
        sum(range(1000))


def test_work_gives_its_result_and_its_error():
    pool = Decoders(2, on_stuck=lambda: None)
    assert asyncio.run(pool.run(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(pool.run(divmod, 7, 0))
    assert pool.close(5) is True


def test_a_thread_that_works_too_long_on_one_image_is_reported_once_and_a_close_does_not_wait_for_it():
    reports, until = [], threading.Event()
    pool = Decoders(1, on_stuck=lambda: reports.append(1) or noticed.set(), stuck_s=0.1)
    noticed = threading.Event()

    async def run() -> bool:
        task = asyncio.create_task(pool.run(burn, until))
        assert await asyncio.to_thread(noticed.wait, 20)
        is_idle = await asyncio.to_thread(pool.close, 0.05)
        until.set()
        await task
        return is_idle

    assert asyncio.run(run()) is False and reports == [1]


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="the system does not tell the time of a thread")
def test_many_short_images_and_a_wait_are_not_reported():
    reports, done = [], threading.Event()
    pool = Decoders(1, on_stuck=lambda: reports.append(1), stuck_s=0.2)

    async def run() -> None:
        for _ in range(20):
            await pool.run(sum, range(1_000_000))  # together more than one may take
        await pool.run(done.wait, 0.4)

    asyncio.run(run())
    assert pool.close(5) is True and reports == []

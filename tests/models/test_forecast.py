"""The forecast grows with the work, shrinks with the machine, and says what it cannot know."""

import time
from dataclasses import replace

import pytest

from regraft.models.compute.budget import Speed
from regraft.models.compute.calibration import measure_speed
from regraft.models.compute.cost import GroupWork
from regraft.models.compute.forecast import (
    FORECAST_STEPS,
    Forecast,
    Job,
    forecast_run,
    say_bytes,
    say_seconds,
)

SMALL, LARGE = (GroupWork(0.1, 0.01),) * 4, (GroupWork(0.5, 0.05),) * 4
NOMINAL = Speed(200.0, 6.5)
JOB = Job(
    files=1000,
    train=650,
    validation=150,
    test=200,
    side_px=224,
    candidates=(SMALL, SMALL, LARGE),
    sample=240,
    read_s=0.01,
    square_s=0.01,
    budget_s=100.0,
    stop_s=float("inf"),
    max_epochs=30,
    halving_s=20.0,
    certify_s=50.0,
)


def total(job: Job = JOB, speed: Speed = NOMINAL) -> float:
    return forecast_run(job, speed, NOMINAL).total_s


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ({"files": 2000}, {"decode"}),
        ({"train": 1300}, {"decode", "finetune"}),
        ({"test": 400}, {"decode", "evaluate", "export"}),
        ({"read_s": 0.02}, {"decode"}),
        ({"square_s": 0.02}, {"decode"}),
        ({"sample": 480}, {"decode", "select"}),
        ({"candidates": (SMALL, SMALL, LARGE, LARGE, LARGE)}, {"select", "evaluate", "export"}),
        ({"budget_s": 110.0}, {"finetune"}),
        ({"halving_s": 40.0}, {"select"}),
        ({"certify_s": 100.0}, {"certify"}),
        ({"shifted": 1100}, {"evaluate"}),
    ],
)
def test_each_part_grows_with_its_own_work_and_no_other(more, parts):
    job = replace(JOB, max_epochs=1) if "train" in more else JOB  # else the budget, not the images, decides
    before, after = (forecast_run(one, NOMINAL, NOMINAL).seconds for one in (job, replace(job, **more)))
    assert {part for part in FORECAST_STEPS if after[part] > before[part] + 1e-9} == parts
    assert all(after[part] >= before[part] - 1e-9 for part in FORECAST_STEPS)


def test_a_machine_of_half_the_speed_takes_twice_as_long_for_counted_work():
    told, slow = (forecast_run(JOB, speed, NOMINAL).seconds for speed in (NOMINAL, Speed(100.0, 3.25)))
    assert slow["finetune"] == pytest.approx(2 * told["finetune"])
    assert slow["certify"] == pytest.approx(2 * told["certify"])
    assert slow["decode"] == told["decode"]
    assert all(slow[part] >= told[part] for part in FORECAST_STEPS)


def test_fine_tuning_ends_with_the_clock_the_budget_or_the_last_epoch():
    full = forecast_run(JOB, NOMINAL, NOMINAL).seconds["finetune"]
    assert 100 <= full <= 130
    assert forecast_run(replace(JOB, stop_s=10.0), NOMINAL, NOMINAL).seconds["finetune"] < full / 3
    assert forecast_run(replace(JOB, max_epochs=0), NOMINAL, NOMINAL).seconds["finetune"] < full / 3
    assert total(replace(JOB, budget_s=1e9)) < 1e4


def test_what_a_probe_may_settle_is_said_apart():
    told = forecast_run(replace(JOB, certify_least_s=20.0), NOMINAL, NOMINAL)
    assert set(told.spared) == {"select", "finetune", "certify"}
    assert all(0 < value < told.seconds[part] for part, value in told.spared.items())
    assert told.spared["select"] == pytest.approx(JOB.halving_s)
    assert told.least_s == pytest.approx(told.total_s - sum(told.spared.values()))
    assert forecast_run(JOB, NOMINAL, NOMINAL, todo=("evaluate", "export")).spared == {}
    faster = forecast_run(replace(JOB, pass_share=0.5), NOMINAL, NOMINAL)
    assert faster.least_s < told.least_s


def test_what_is_done_takes_no_time():
    told = forecast_run(JOB, NOMINAL, NOMINAL, todo=("evaluate", "export")).seconds
    assert told["select"] == told["finetune"] == 0
    assert 0 < told["decode"] < forecast_run(JOB, NOMINAL, NOMINAL).seconds["decode"]
    assert forecast_run(JOB, NOMINAL, NOMINAL, todo=()).total_s == 0


def test_disk_and_memory_are_bytes():
    told = forecast_run(JOB, NOMINAL, NOMINAL)
    pixels = 224 * 224 * 3 * (650 + 2 * 150 + 200 + 240)
    assert pixels < told.cache_bytes < 1.2 * pixels
    assert 1e9 < told.memory_bytes < 1e11
    assert forecast_run(replace(JOB, batch_size=64), NOMINAL, NOMINAL).memory_bytes > told.memory_bytes


def test_what_cannot_be_forecast_is_said():
    blind = forecast_run(replace(JOB, candidates=(), read_s=None), NOMINAL, NOMINAL, notes=("no candidate is here",))
    assert blind.seconds["select"] is blind.seconds["decode"] is None
    assert blind.describe() == "no forecast; no candidate is here"
    assert "no candidate is here" in blind.to_json()["words"]
    half = forecast_run(replace(JOB, square_s=None), NOMINAL, NOMINAL)
    assert "on this machine without decode" in half.describe()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (14, "14 s"), (44, "40 s"), (350, "6 min"), (9000, "2.5 h")]
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert say_seconds(seconds) == words


def test_a_forecast_in_words():
    told = Forecast({"select": 200.0, "finetune": 160.0}, 1.1e9, 2e9)
    assert told.describe() == "about 6 min on this machine, 1.1 GB of cache"
    spared = replace(told, spared={"select": 80.0, "finetune": 150.0})
    assert spared.describe() == "2 min (if a linear probe settles it) to 6 min on this machine, 1.1 GB of cache"
    assert say_bytes(4e7) == "40 MB"


def test_the_machine_is_measured_in_a_moment_and_plausibly():
    began = time.perf_counter()
    speed = measure_speed(1)
    assert time.perf_counter() - began < 10
    assert 1 < speed.gflops < 1e6
    assert 0.1 < speed.gigabytes < 1e5

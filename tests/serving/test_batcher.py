"""Inputs that wait share a batch; a poisonous one fails alone; versions never mix."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from regraft.serving.bundle.runtime import ModelOutput
from regraft.serving.endpoint.batcher import Batcher, BatcherFullError


class Recorder:
    """A stand-in for a slow model: remembers its batches, refuses batches that hold the value 13."""

    def __init__(self, gate: threading.Event) -> None:
        self.gate, self.batches = gate, []
        self.info = SimpleNamespace(version="x")

    def predict(self, batch: np.ndarray) -> ModelOutput:
        self.gate.wait()
        self.batches.append(batch[:, 0].tolist())
        if 13 in batch[:, 0]:
            raise ValueError("poison")
        return ModelOutput(batch[:, :1], batch[:, :1], batch[:, :1])


@pytest.fixture
def gate():
    return threading.Event()


@pytest.fixture
def batcher(gate):
    batcher = Batcher()
    yield batcher
    gate.set()
    batcher.close()


def submit_behind_a_blocker(batcher, gate, jobs: list[tuple[Recorder, int]]) -> list:
    """Let the first job occupy the thread while the others queue up, then open the gate."""
    futures = [batcher.submit(model, np.full(2, value)) for model, value in jobs[:1]]
    while not batcher._queue.empty():
        pass
    futures += [batcher.submit(model, np.full(2, value)) for model, value in jobs[1:]]
    gate.set()
    return futures


def test_waiting_inputs_share_a_batch_and_get_their_own_rows(batcher, gate):
    model = Recorder(gate)
    futures = submit_behind_a_blocker(batcher, gate, [(model, value) for value in range(6)])
    assert [int(future.result().logits[0, 0]) for future in futures] == list(range(6))
    assert model.batches == [[0], [1, 2, 3, 4, 5]]


def test_batches_are_bounded(batcher, gate):
    model = Recorder(gate)
    futures = submit_behind_a_blocker(batcher, gate, [(model, value + 100) for value in range(40)])
    assert [int(future.result().logits[0, 0]) for future in futures] == list(range(100, 140))
    assert [len(batch) for batch in model.batches] == [1, 16, 16, 7]


def test_a_poisonous_input_fails_alone(batcher, gate):
    model = Recorder(gate)
    futures = submit_behind_a_blocker(batcher, gate, [(model, value) for value in (0, 12, 13, 14)])
    with pytest.raises(ValueError, match="poison"):
        futures[2].result()
    assert [int(futures[index].result().logits[0, 0]) for index in (1, 3)] == [12, 14]


def test_two_models_never_share_a_batch(batcher, gate):
    old, new = Recorder(gate), Recorder(gate)
    jobs = [(old, 0), (old, 1), (new, 2), (new, 3), (old, 4)]
    futures = submit_behind_a_blocker(batcher, gate, jobs)
    assert [int(future.result().logits[0, 0]) for future in futures] == [0, 1, 2, 3, 4]
    assert old.batches == [[0], [1], [4]] and new.batches == [[2, 3]]


def test_a_full_queue_refuses(batcher, gate):
    model = Recorder(gate)
    with pytest.raises(BatcherFullError, match="images wait"):
        for value in range(1000):
            batcher.submit(model, np.full(2, value))


def test_closing_answers_what_waits(gate):
    batcher, model = Batcher(), Recorder(gate)
    futures = [batcher.submit(model, np.full(2, value)) for value in range(5)]
    gate.set()
    batcher.close()
    assert all(future.done() for future in futures)

"""The running model follows the pointer, and a faulty one never replaces it."""

import time
from dataclasses import asdict

import pytest

from regraft.serving.endpoint.slots import Slots
from regraft.serving.files.durable import write_json
from regraft.serving.registry.registry import Pointer, Registry


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, make_bundle) -> list:
    folder = tmp_path_factory.mktemp("bundles")
    return [make_bundle(folder / str(number), bias=number / 10) for number in range(2)]


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "store")


@pytest.fixture
def slots(registry):
    slots = Slots(registry.store, threads=1, poll_s=0.01)
    yield slots
    slots.stop()


def wait_for(claim, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_nothing_answers_until_there_is_a_champion(registry, slots, bundles):
    slots.start()
    assert slots.handle is None and slots.state.refusal is None
    version = registry.register(bundles[0])
    registry.promote(version, "a", "b")
    wait_for(lambda: slots.handle is not None)
    assert slots.handle.info.version == version and slots.state.seq == 1


def test_promotion_and_rollback_swap_and_a_rollback_loads_nothing(registry, slots, bundles):
    first, second = map(registry.register, bundles)
    registry.promote(first, "a", "b")
    slots.poll()
    before = slots.handle
    registry.promote(second, "a", "b")
    slots.poll()
    assert slots.handle.info.version == second
    registry.rollback("a", "b")
    slots.poll()
    assert slots.handle is before and slots.state.seq == 3


def test_a_bundle_damaged_after_promotion_is_refused_and_the_old_one_answers(registry, slots, bundles):
    first, second = map(registry.register, bundles)
    registry.promote(first, "a", "b")
    slots.poll()
    registry.promote(second, "a", "b")
    (registry.path(second) / "model.onnx").write_bytes(b"damaged")
    slots.poll()
    assert slots.handle.info.version == first and slots.state.seq == 1
    assert slots.state.refusal.version == second and "model.onnx was changed" in slots.state.refusal.reason
    registry.rollback("a", "back")
    slots.poll()
    assert slots.state.refusal is None and slots.state.seq == 3


def test_a_model_still_in_memory_is_not_put_to_work_if_its_bundle_was_damaged_since(registry, slots, bundles):
    first, second = map(registry.register, bundles)
    for version in (first, second):
        registry.promote(version, "a", "b")
        slots.poll()
    damaged = registry.path(first) / "model.onnx"
    original = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    now = registry.pointer()  # rollback would have refused it: it may be damaged afterwards
    write_json(registry.store / "pointer.json", asdict(Pointer(first, None, second, now.seq + 1)))
    slots.poll()
    assert slots.handle.info.version == second and slots.state.seq == 2
    assert slots.state.refusal.version == first and "model.onnx was changed" in slots.state.refusal.reason
    damaged.write_bytes(original)
    write_json(registry.store / "pointer.json", asdict(Pointer(first, None, second, now.seq + 2)))
    slots.poll()
    assert slots.handle.info.version == first and slots.state.refusal is None


def test_the_running_version_promoted_again_is_read_again_and_keeps_answering(registry, slots, bundles):
    version = registry.register(bundles[0])
    registry.promote(version, "a", "b")
    slots.poll()
    (registry.path(version) / "CARD.md").unlink()
    write_json(registry.store / "pointer.json", asdict(Pointer(version, None, None, 2)))
    slots.poll()
    assert slots.handle.info.version == version and slots.state.seq == 1
    assert "CARD.md is missing" in slots.state.refusal.reason


def test_a_refused_bundle_is_not_loaded_again_at_every_look(registry, slots, bundles, monkeypatch):
    version = registry.register(bundles[0])
    registry.promote(version, "a", "b")
    damaged = registry.path(version) / "model.onnx"
    original = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    slots.poll()
    damaged.write_bytes(original)
    slots.poll()
    assert slots.handle is None
    monkeypatch.setattr("regraft.serving.endpoint.slots.RETRY_S", 0.0)
    slots.poll()
    assert slots.handle is not None and slots.state.refusal is None


def test_an_unreadable_pointer_changes_nothing_and_is_said(registry, slots, bundles):
    version = registry.register(bundles[0])
    registry.promote(version, "a", "b")
    slots.poll()
    pointer = registry.store / "pointer.json"
    original = pointer.read_bytes()
    pointer.write_bytes(b"{")
    slots.poll()
    slots.poll()
    assert slots.handle.info.version == version and "is not a pointer" in slots.state.refusal.reason
    pointer.write_bytes(original)
    slots.poll()
    assert slots.state.refusal is None


def test_each_change_is_reported_once(registry, bundles):
    seen = []
    slots = Slots(registry.store, threads=1, on_change=seen.append)
    first, second = map(registry.register, bundles)
    registry.promote(first, "a", "b")
    slots.poll()
    slots.poll()
    registry.promote(second, "a", "b")
    (registry.path(second) / "CARD.md").unlink()
    slots.poll()
    slots.poll()
    assert [(state.seq, state.refusal is None) for state in seen] == [(1, True), (1, False)]

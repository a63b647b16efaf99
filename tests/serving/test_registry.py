"""The pointer moves in one step, the journal says why, and a writer killed anywhere leaves both readable."""

import json
import subprocess
import sys
import threading

import pytest

from regraft.serving.bundle.format import BundleError
from regraft.serving.registry.journal import RegistryError
from regraft.serving.registry.registry import Pointer, Registry


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, make_bundle) -> list:
    folder = tmp_path_factory.mktemp("bundles")
    return [make_bundle(folder / str(number), bias=number / 10) for number in range(3)]


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "models" / "store")


@pytest.fixture
def versions(registry, bundles) -> list[str]:
    return [registry.register(bundle) for bundle in bundles]


def test_registering_twice_changes_nothing(registry, bundles):
    version = registry.register(bundles[0])
    before = sorted((path.name, path.stat().st_mtime_ns) for path in registry.path(version).rglob("*"))
    assert registry.register(bundles[0]) == version
    assert sorted((path.name, path.stat().st_mtime_ns) for path in registry.path(version).rglob("*")) == before
    assert [entry.version for entry in registry.versions()] == [version]


def test_a_damaged_copy_is_replaced_when_registered_again(registry, bundles):
    version = registry.register(bundles[0])
    (registry.path(version) / "model.onnx").write_bytes(b"damaged")
    registry.register(bundles[0])
    assert (registry.path(version) / "model.onnx").read_bytes() == (bundles[0] / "model.onnx").read_bytes()


def test_a_faulty_bundle_is_not_registered(registry, tmp_path, make_bundle):
    folder = make_bundle(tmp_path / "b")
    (folder / "CARD.md").write_text("changed")
    with pytest.raises(BundleError, match=r"CARD\.md was changed"):
        registry.register(folder)
    assert registry.versions() == []


def test_the_life_of_two_versions(registry, versions):
    first, second, _ = versions
    assert registry.pointer() == Pointer()
    registry.promote(first, "ada", "first of all")
    assert registry.challenge(second, "gate", "trained on more") == Pointer(first, second, None, 2)
    assert registry.promote(second, "gate", "better by 2 points") == Pointer(second, None, first, 3)
    assert registry.rollback("ada", "complaints") == Pointer(first, None, second, 4)
    assert registry.rollback("ada", "false alarm") == Pointer(second, None, first, 5)
    said = [(entry.seq, entry.action, entry.version, entry.by, entry.reason) for entry in registry.journal()]
    assert said == [
        (1, "promote", first, "ada", "first of all"),
        (2, "challenge", second, "gate", "trained on more"),
        (3, "promote", second, "gate", "better by 2 points"),
        (4, "rollback", first, "ada", "complaints"),
        (5, "rollback", second, "ada", "false alarm"),
    ]
    assert {entry.version: entry.role for entry in registry.versions()} == {
        first: "previous",
        second: "champion",
        versions[2]: "",
    }


def test_promoting_the_champion_again_writes_nothing(registry, versions):
    registry.promote(versions[0], "a", "b")
    assert registry.promote(versions[0], "a", "again").seq == 1
    assert len(registry.journal()) == 1


def test_a_challenger_stays_when_another_version_is_promoted(registry, versions):
    registry.challenge(versions[0], "a", "b")
    assert registry.promote(versions[1], "a", "b").challenger == versions[0]


def test_a_rejected_challenger_leaves_its_place(registry, versions):
    registry.challenge(versions[0], "a", "b")
    assert registry.reject(versions[0], "gate", "worse") == Pointer(seq=2)
    with pytest.raises(RegistryError, match="is not the challenger"):
        registry.reject(versions[0], "gate", "worse")


def test_what_cannot_be_done_is_said(registry, versions):
    with pytest.raises(RegistryError, match="no previous version"):
        registry.rollback("a", "b")
    with pytest.raises(RegistryError, match=f"not registered; registered are: .*{versions[0]}"):
        registry.promote("ffffffffffff", "a", "b")
    with pytest.raises(RegistryError, match="not registered"):
        registry.promote("../versions/" + versions[0], "a", "b")
    registry.promote(versions[0], "a", "b")
    with pytest.raises(RegistryError, match="is the champion already"):
        registry.challenge(versions[0], "a", "b")


def test_a_damaged_version_is_neither_promoted_nor_rolled_back_to(registry, versions):
    registry.promote(versions[0], "a", "b")
    registry.promote(versions[1], "a", "b")
    for version in (versions[0], versions[2]):
        (registry.path(version) / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(RegistryError, match=r"model\.onnx was changed"):
        registry.promote(versions[2], "a", "b")
    with pytest.raises(RegistryError, match=r"model\.onnx was changed"):
        registry.rollback("a", "b")
    assert registry.pointer().champion == versions[1]


def test_prefixes_and_roles_resolve(registry, versions):
    registry.promote(versions[1], "a", "b")
    assert registry.resolve(versions[0][:8]) == versions[0]
    assert registry.resolve("champion") == versions[1]
    with pytest.raises(RegistryError, match="there is no challenger"):
        registry.resolve("challenger")
    for unknown in ("", "zzz"):
        with pytest.raises(RegistryError, match="fits no version; registered are"):
            registry.resolve(unknown)


def test_an_entry_whose_pointer_never_moved_is_void(registry, versions):
    registry.promote(versions[0], "a", "took effect")
    path = registry.store / "journal.jsonl"
    void = json.loads(path.read_text()) | {"seq": 2, "reason": "died before the rename"}
    with path.open("a") as file:
        file.write(json.dumps(void) + '\n{"seq": 3, "torn')
    assert [entry.reason for entry in registry.journal()] == ["took effect"]
    registry.promote(versions[1], "a", "took effect too")
    assert [entry.reason for entry in registry.journal()] == ["took effect", "took effect too"]
    assert "torn" not in path.read_text()


def test_a_lost_pointer_is_noticed_before_history_is_overwritten(registry, versions):
    registry.promote(versions[0], "a", "b")
    registry.promote(versions[1], "a", "b")
    (registry.store / "pointer.json").unlink()
    with pytest.raises(RegistryError, match="restore the lost pointer"):
        registry.promote(versions[2], "a", "b")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"champion": "x", "extra": 1}'])
def test_a_pointer_that_is_not_one_is_named(registry, content):
    registry.store.mkdir(parents=True)
    (registry.store / "pointer.json").write_text(content)
    with pytest.raises(RegistryError, match=r"pointer\.json is not a pointer"):
        registry.pointer()


def test_writers_in_many_threads_lose_no_change(registry, versions):
    registry.promote(versions[0], "a", "b")
    registry.promote(versions[1], "a", "b")

    def roll() -> None:
        for _ in range(10):
            Registry(registry.store).rollback("thread", "again")

    threads = [threading.Thread(target=roll) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.pointer().seq == 42
    assert [entry.seq for entry in registry.journal()] == list(range(1, 43))


KILLER = """
import json, os, random, signal, sys
from dataclasses import asdict
from pathlib import Path
from regraft.serving.registry.registry import Registry

store, *bundles = map(Path, sys.argv[1:])
registry, chance = Registry(store), random.Random(0)

def work():
    while True:
        for bundle in chance.sample(bundles, len(bundles)):
            version = registry.register(bundle)
            if registry.pointer().champion != version:
                registry.challenge(version, "writer", "try")
                registry.promote(version, "writer", "better")
            if registry.pointer().previous:
                registry.rollback("writer", "undo")

for _ in range(80):
    chance.seed(chance.random())
    child = os.fork()
    if child == 0:
        # Its own processor time decides when it dies, without a word: on a busy machine a clock would end it unborn.
        signal.setitimer(signal.ITIMER_PROF, chance.uniform(0.001, 0.05))
        work()
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGPROF
    print(json.dumps([asdict(registry.pointer()), [asdict(entry) for entry in registry.journal()]]))
"""


def replay(journal: list[dict]) -> tuple[str | None, str | None, str | None]:
    """Return (champion, challenger, previous) that the entries lead to: the pointer's independent truth."""
    champion = challenger = previous = None
    for entry in journal:
        if entry["action"] == "challenge":
            challenger = entry["version"]
        elif entry["action"] == "promote":
            champion, previous = entry["version"], champion
            challenger = None if challenger == entry["version"] else challenger
        else:
            champion, previous = previous, champion
    return champion, challenger, previous


@pytest.mark.slow
def test_a_writer_killed_anywhere_leaves_pointer_and_journal_agreeing(registry, bundles):
    command = [sys.executable, "-c", KILLER, str(registry.store), *map(str, bundles)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    states = [json.loads(line) for line in output.splitlines()]
    for pointer, journal in states:
        assert [entry["seq"] for entry in journal] == list(range(1, pointer["seq"] + 1))
        assert replay(journal) == (pointer["champion"], pointer["challenger"], pointer["previous"])
    reached = [pointer["seq"] for pointer, _ in states]
    assert len(states) == 80 and reached == sorted(reached)
    assert len(set(reached)) > 20  # the kills hit writers at work

    version = registry.register(bundles[2])
    registry.promote(version, "after", "the rerun converges")
    assert registry.pointer().champion == version
    assert {path.name for path in registry.folder.iterdir()} == {entry.version for entry in registry.versions()}
    assert not list(registry.store.glob(".*.tmp"))


def test_what_a_desktop_leaves_behind_blocks_nothing(registry, versions, bundles):
    for folder in (registry.folder, registry.path(versions[0]), registry.path(versions[0]) / "golden"):
        for name in (".DS_Store", "._model.onnx", "Thumbs.db"):
            (folder / name).write_bytes(b"remark")
    (registry.folder / "@eaDir" / versions[0]).mkdir(parents=True)
    (registry.folder / ".Trashes").mkdir()
    registry.promote(versions[0], "a", "b")
    registry.promote(versions[1], "a", "b")
    assert registry.rollback("a", "b").champion == versions[0]
    assert registry.register(bundles[0]) == versions[0]
    assert {entry.version for entry in registry.versions()} == set(versions)
    assert registry.resolve(versions[2][:6]) == versions[2]


def test_what_a_dead_writer_left_behind_goes(registry, versions):
    left = registry.folder / f".{versions[0]}.99999999.tmp"
    left.mkdir()
    (left / "half").write_bytes(b"x")
    registry.promote(versions[0], "a", "b")
    assert not left.exists()


def test_a_foreign_file_in_a_bundle_is_still_refused(registry, versions):
    (registry.path(versions[0]) / "weights.pkl").write_bytes(b"x")
    with pytest.raises(RegistryError, match=r"weights\.pkl is not part of the bundle"):
        registry.promote(versions[0], "a", "b")

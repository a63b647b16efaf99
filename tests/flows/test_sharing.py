"""Two copies of one workspace take turns through one remote: nothing is lost, nothing is overwritten in silence."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from regraft.serving.bundle.format import REQUIRED_FILES, BundleError, seal_bundle
from regraft.serving.files.json_lines import append_lines, encode_line, read_lines
from regraft.serving.registry.journal import Pointer, RegistryError, chain, replay
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.params import set_params
from regraft.tasks.sharing.remote_journal import put_entries, read_history
from regraft.tasks.sharing.remote_store import RemoteError, open_remote
from regraft.tasks.sharing.remote_versions import read_version
from regraft.tasks.sharing.sharing import RemoteMovedOnError, follow, settle, share
from regraft.tasks.steps.push import pull, push
from regraft.tasks.workspace.lineage import keep_lineage
from regraft.tasks.workspace.run_log import read_runs, record_run
from regraft.tasks.workspace.workspace import Workspace, init_workspace


def make_bundle(folder: Path, content: str) -> Path:
    for name in REQUIRED_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} of {content}")
    draft = {
        "name": content,
        "labels": ["a", "b"],
        "preprocess": {"size_px": 32, "fit": "squash", "interpolation": "bicubic"},
        "backbone": {"name": "n", "sha256": None, "licence": None, "source": None},
        "embedding_dims": 2,
    }
    seal_bundle(folder, draft)
    return folder


class Copy:
    """One copy of the workspace, with what a training does to its registry."""

    def __init__(self, root: Path, remote: Path) -> None:
        self.home = init_workspace(root, remote=str(remote))
        self.registry = Registry(self.home.models_store)

    def make(self, content: str) -> str:
        version = self.registry.register(make_bundle(self.home.state / "made" / content, content))
        keep_lineage(
            self.home, version, {"dvc.lock": b"of " + content.encode(), "data/store/frozen.csv": b"sha256,part\n"}
        )
        return version

    def promote(self, content: str, by: str = "train") -> str:
        version = self.make(content)
        self.registry.promote(version, by, f"{content} is better")
        return version

    @property
    def pointer(self) -> Pointer:
        return self.registry.pointer()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return tmp_path / "remote"


@pytest.fixture
def ada(tmp_path: Path, remote: Path) -> Copy:
    return Copy(tmp_path / "ada", remote)


@pytest.fixture
def bob(tmp_path: Path, remote: Path) -> Copy:
    return Copy(tmp_path / "bob", remote)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_versions_pointer_journal_and_history_reach_another_copy(ada: Copy, bob: Copy) -> None:
    first = ada.promote("one")
    record_run(ada.home, "train", {"version": first})
    append_lines(ada.home.judgements, [encode_line({"verdict": 1})])
    assert (share(ada.home).versions, share(ada.home).versions) == (1, 0)
    got = follow(bob.home)
    assert (got.versions, got.lines, got.relation, bob.pointer) == (1, 2, "behind", ada.pointer)
    assert bob.registry.journal() == ada.registry.journal()
    assert read_tree(bob.registry.path(first)) == read_tree(ada.registry.path(first))
    assert read_tree(bob.home.lineage / first) == read_tree(ada.home.lineage / first)
    assert read_runs(bob.home) == read_runs(ada.home)
    assert bob.home.judgements.read_bytes() == ada.home.judgements.read_bytes()
    assert bob.registry.versions()[0].registered_at == pytest.approx(ada.registry.versions()[0].registered_at, abs=1e-3)


def test_two_copies_take_turns(ada: Copy, bob: Copy) -> None:
    for number, (one, other) in enumerate([(ada, bob), (bob, ada)] * 3):
        version = one.promote(f"turn {number}")
        share(one.home)
        assert follow(other.home).pointer == one.pointer
        assert other.pointer.champion == version
    assert ada.registry.journal() == bob.registry.journal()
    assert ada.pointer.seq == 6


def test_a_push_onto_a_remote_that_moved_on_is_refused_and_loses_nothing(ada: Copy, bob: Copy) -> None:
    ada.promote("one")
    share(ada.home)
    follow(bob.home)
    of_ada, of_bob = ada.promote("by ada"), bob.promote("by bob")
    share(ada.home)
    with pytest.raises(RemoteMovedOnError, match="regraft pull"):
        share(bob.home)
    with open_remote(ada.home) as remote:
        assert replay(read_history(remote))[-1] == ada.pointer
        assert read_version(remote, of_bob)["files"]
    assert follow(bob.home).relation == "parted"
    assert bob.pointer.champion == of_bob
    settled = settle(bob.home)
    assert (bob.pointer.champion, bob.pointer.challenger) == (of_ada, of_bob)
    assert any(of_bob in note and "challenger" in note for note in settled.notes)
    assert f'"version": "{of_bob}"' in (bob.home.models_store / "journal.superseded.jsonl").read_text()
    share(bob.home)
    follow(ada.home)
    assert ada.pointer == bob.pointer
    assert ada.registry.path(of_bob).is_dir()


def test_a_rollback_made_meanwhile_is_made_again_if_its_version_still_answers(ada: Copy, bob: Copy) -> None:
    first, second = ada.promote("one"), ada.promote("two")
    share(ada.home)
    follow(bob.home)
    third = ada.make("three")
    ada.registry.challenge(third, "train", "not told from it")
    share(ada.home)
    bob.registry.rollback("bob", "complaints")
    settle(bob.home)
    assert (bob.pointer.champion, bob.pointer.previous, bob.pointer.challenger) == (first, second, third)
    assert bob.registry.journal()[-1].reason == "complaints"


def test_the_same_version_made_by_both_is_no_challenge(ada: Copy, bob: Copy) -> None:
    version = ada.promote("one")
    bob.promote("one")
    share(ada.home)
    with pytest.raises(RemoteMovedOnError):
        share(bob.home)
    settle(bob.home)
    assert bob.pointer == ada.pointer == Pointer(version, None, None, 1)


def test_both_agree_on_who_was_first_when_one_number_was_written_twice(ada: Copy, bob: Copy) -> None:
    ada.promote("one")
    share(ada.home)
    follow(bob.home)
    for copy, content in ((bob, "by bob"), (ada, "by ada")):  # bob decided first, ada was sent first
        copy.promote(content)
    for copy in (ada, bob):
        with open_remote(copy.home) as remote:
            put_entries(remote, copy.registry.journal(), 1)
    with pytest.raises(RemoteMovedOnError):
        share(ada.home)
    share(bob.home)
    settle(ada.home)
    assert ada.pointer.champion == bob.pointer.champion
    assert ada.pointer.challenger is not None


def test_an_entry_that_is_half_written_does_not_exist_yet(ada: Copy, bob: Copy, remote: Path) -> None:
    ada.promote("one")
    ada.promote("two")
    share(ada.home)
    last = sorted((remote / "regraft" / "journal").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:40])
    follow(bob.home)
    assert bob.pointer.seq == 1


def test_lines_of_both_are_kept_whoever_comes_last(ada: Copy, bob: Copy) -> None:
    for copy, name in ((ada, "ada"), (bob, "bob")):
        copy.home.runs.write_bytes(b'{"torn": ')
        record_run(copy.home, "train", {"by": name})
        share(copy.home)
    for copy in (ada, bob):
        follow(copy.home)
        assert [run["by"] for run in read_runs(copy.home)] == ["ada", "bob"]
    assert follow(ada.home).lines == 0


def test_an_object_that_the_remote_lost_is_sent_again(ada: Copy, bob: Copy, remote: Path) -> None:
    version = ada.promote("one")
    share(ada.home)
    shutil.rmtree(remote / "files")
    with pytest.raises(RemoteError, match="regraft push"):
        follow(bob.home)
    assert bob.pointer == Pointer()
    share(ada.home)
    assert follow(bob.home).pointer.champion == version


def test_a_damaged_object_is_refused(ada: Copy, bob: Copy, remote: Path) -> None:
    ada.promote("one")
    share(ada.home)
    for path in (remote / "files").rglob("*"):
        if path.is_file() and b"model.onnx" in path.read_bytes()[:20]:
            path.chmod(0o644)
            path.write_bytes(b"spoiled")
    with pytest.raises((RemoteError, BundleError)):
        follow(bob.home)
    assert bob.pointer == Pointer()
    assert bob.registry.versions() == []


@pytest.mark.parametrize("name", ["../../../evil", "/tmp/evil"])
def test_a_file_name_that_leads_out_of_the_version_is_refused(ada: Copy, bob: Copy, remote: Path, name: str) -> None:
    version = ada.promote("one")
    share(ada.home)
    document = remote / "regraft" / "versions" / f"{version}.json"
    content = json.loads(document.read_text())
    content["lineage"] = {name: "x"}
    document.write_text(json.dumps(content))
    with pytest.raises(RemoteError, match="outside"):
        follow(bob.home)


def test_a_copy_killed_between_journal_and_pointer_is_mended_by_the_next_pull(ada: Copy, bob: Copy) -> None:
    ada.promote("one")
    share(ada.home)
    follow(bob.home)
    before = (bob.home.models_store / "pointer.json").read_bytes()
    ada.promote("two")
    share(ada.home)
    follow(bob.home)
    (bob.home.models_store / "pointer.json").write_bytes(before)
    assert bob.pointer.seq == 1
    follow(bob.home)
    assert bob.pointer == ada.pointer


def test_a_pointer_that_moved_meanwhile_is_not_overwritten(ada: Copy) -> None:
    ada.promote("one")
    seen, entries = ada.pointer.seq, ada.registry.journal()
    ada.promote("two")
    with pytest.raises(RegistryError, match="moved"):
        ada.registry.adopt(entries, seen)


def test_every_change_replays_to_the_pointer_and_names_its_history(ada: Copy) -> None:
    first, second = ada.promote("one"), ada.make("two")
    ada.registry.challenge(second, "a", "b")
    ada.registry.reject(second, "a", "b")
    ada.registry.challenge(second, "a", "b")
    ada.registry.promote(second, "a", "b")
    ada.registry.rollback("a", "b")
    ada.registry.promote(second, "a", "again")
    entries = ada.registry.journal()
    assert replay(entries)[-1] == ada.pointer == Pointer(second, None, first, 7)
    other = [*entries[:2], replace(entries[2], reason="c"), *entries[3:]]
    assert [one == two for one, two in zip(chain(entries), chain(other), strict=True)] == [True] * 2 + [False] * 5


def test_a_champion_whose_folder_nobody_holds_is_named(ada: Copy, bob: Copy, remote: Path) -> None:
    ada.promote("one")
    share(ada.home)
    shutil.rmtree(remote / "regraft" / "versions")
    with pytest.raises(RemoteError, match="does not hold the champion"):
        follow(bob.home)


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=plant", "-c", "user.email=plant@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.slow
def test_a_clone_serves_trains_without_the_folder_and_is_judged_against_the_champion(
    copied, tmp_path: Path, remote: Path, run_regraft
) -> None:
    home, root = copied.home, tmp_path / "clone"
    git(home.root, "init")
    init_workspace(home.root, remote=str(remote))
    push(home)
    gone = str(tmp_path / "gone")
    home.intake.write_text(home.intake.read_text().replace(str(copied.images), gone))
    git(home.root, "add", "-A")
    git(home.root, "commit", "-m", "a workspace")
    assert not [
        name for name in git(home.root, "ls-files").split() if name.startswith((".regraft", "models/store/ver"))
    ]
    git(tmp_path, "clone", str(home.root), str(root))
    pulled = run_regraft("pull", "--workspace", str(root), "--json")
    assert pulled.returncode == 0, pulled.stderr
    image = next(path for path in sorted(copied.images.rglob("*")) if path.is_file())
    asked = run_regraft("predict", str(image), "--workspace", str(root), "--json")
    assert json.loads(asked.stdout)[0]["version"] == copied.answer["version"]
    set_params(root / "params.yaml", {"evaluate.bootstrap": 150})
    made = run_regraft("train", "--workspace", str(root), "--json")
    assert made.returncode == 3, made.stderr
    assert f"{gone} is not there" in made.stderr
    answer = json.loads(made.stdout)
    states = {run["name"]: run["state"] for run in answer["stages"]}
    assert (states["select"], states["finetune"]) == ("cached", "cached")
    pull(home)
    pointer = Registry(home.models_store).pointer()
    assert (pointer.champion, pointer.challenger) == (copied.answer["version"], answer["version"])
    assert list(dict.fromkeys(run["version"] for run in read_runs(home))) == [
        copied.answer["version"],
        answer["version"],
    ]


def test_a_ledger_begins_a_new_line_after_a_torn_one(ada: Copy) -> None:
    record_run(ada.home, "train", {"number": 1})
    with ada.home.runs.open("ab") as file:
        file.write(b'{"number": 2, "to')
    record_run(ada.home, "train", {"number": 3})
    assert [run["number"] for run in read_runs(ada.home)] == [1, 3]
    assert len(read_lines(ada.home.runs)) == 2


def test_what_is_not_to_be_shared_stays_out_of_git(ada: Copy) -> None:
    home: Workspace = ada.home
    git(home.root, "init")
    ada.promote("one")
    secret = home.images / "ab" / ("ab" * 32)
    for path in (
        secret,
        home.predictions,
        home.feedback / "b" / "1.png",
        home.dataset / "shards" / "1.parquet",
        home.root / ".dvc" / "cache" / "1",
        home.root / ".dvc" / "config.local",
        home.root / ".dvc" / "tmp" / "1",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (home.root / ".DS_Store").write_bytes(b"x")
    git(home.root, "add", "-A")
    assert sorted(git(home.root, "ls-files").split()) == [
        ".dvc/config",
        ".dvcignore",
        ".gitignore",
        "data/store/frozen.csv",
        "dvc.yaml",
        "models/store/known_runs.jsonl",
        "params.yaml",
    ]

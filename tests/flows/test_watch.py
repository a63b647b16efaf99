"""The watch on logged production: labels first, then a call for a retraining, and what a retraining may learn from."""

import hashlib
import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.dataset.manifest import read_manifest
from regraft.data.sources.tables import list_table
from regraft.data.split.split import read_split
from regraft.data.synthetic.steel import DRIFTED, LABELS, SteelLine, encode_image, render_image
from regraft.flows.retrain import retrain
from regraft.serving.bundle.format import BundleDraft, open_bundle, seal_bundle
from regraft.serving.bundle.runtime import ModelHandle
from regraft.serving.decoding.preprocess import load_input
from regraft.serving.decoding.quality import measure_quality
from regraft.serving.log.image_store import ImageStore
from regraft.serving.log.requests import read_requests
from regraft.serving.log.writer import PredictionLog, PredictionRecord
from regraft.serving.registry.registry import Registry
from regraft.tasks.settings.params import set_params
from regraft.tasks.stages.ingest import ingest
from regraft.tasks.stages.split import split
from regraft.tasks.steps import watch as watch_steps
from regraft.tasks.steps.collect import collect, learned_batches, read_fresh_labels
from regraft.tasks.steps.gate import gate
from regraft.tasks.steps.promote import promote
from regraft.tasks.steps.samples import gather_sample
from regraft.tasks.steps.waiting_challengers import find_unjudged, find_unsettled
from regraft.tasks.steps.watch import decide_action, judge_traffic
from regraft.tasks.workspace.alarms import read_alarm, write_alarm
from regraft.tasks.workspace.locks import WorkspaceBusy, hold_lock
from regraft.tasks.workspace.windows import read_states, read_windows
from regraft.tasks.workspace.workspace import Workspace

ENOUGH = 60


class Production:
    """Images of a line, answered by the champion and logged as the endpoint would log them."""

    def __init__(self, home: Workspace) -> None:
        self.home = home
        self.version = str(Registry(home.models_store).pointer().champion)
        self.handle = ModelHandle.open(home.models_store / "versions" / self.version)
        self.store = ImageStore(home.images, 2**30)
        self.truth: dict[str, str] = {}

    def send(self, line: SteelLine, count: int, seed: int) -> list[str]:
        ids = []
        log = PredictionLog(self.home.predictions)
        for number in range(count):
            label = LABELS[number % len(LABELS)]
            image = encode_image(render_image(line, label, seed + number), line)
            ids.append(self.log(log, image, f"{seed}-{number}"))
            self.truth[ids[-1]] = label
        log.close()
        return ids

    def log(self, log: PredictionLog, image: bytes, identity: str) -> str:
        answer = self.handle.predict(load_input(image, self.handle.info.preprocess)[None])
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))
        record = PredictionRecord(
            id=identity,
            at=time.time(),
            version=self.version,
            labels=tuple(self.handle.info.labels),
            label=self.handle.info.labels[int(answer.probabilities[0].argmax())],
            probabilities=answer.probabilities[0],
            embedding=self.handle.reduce(answer.embedding)[0],
            quality=measure_quality(pixels),
            image_sha256=self.store.keep(image),
        )
        log.append_now(record)
        return identity

    def inspect(self, ids: list[str]) -> None:
        log = PredictionLog(self.home.predictions)
        for identity in ids:
            log.record_feedback(identity, self.truth[identity])
        log.close()


@pytest.fixture
def production(copied) -> Production:
    return Production(copied.home)


def look(home: Workspace):
    return decide_action(home, judge_traffic(home))


def look_past_audit(production: Production):
    """Look, answer the audit as it asks, and return the first look at which it is decided."""
    report = look(production.home)
    while report.action == "audit":
        production.inspect([row["id"] for row in report.queue])
        report = look(production.home)
    return report


def test_the_line_it_was_trained_on_is_quiet(production: Production) -> None:
    production.send(SteelLine.default(), 120, seed=5_000)
    report = look(production.home)
    assert (report.verdict["decision"], report.action) == ("quiet", "none")


def test_drift_asks_for_labels_and_with_enough_of_them_for_a_retraining(production: Production) -> None:
    home = production.home
    early = production.send(SteelLine.default(), ENOUGH, seed=6_000)
    production.inspect(early)
    assert look(home).action == "none"
    production.send(DRIFTED, 120, seed=7_000)
    audit = look(home)
    assert (audit.verdict["decision"], audit.verdict["kind"], audit.action) == ("drift", "image", "audit")
    # Labels from before the drift say nothing about it.
    assert (audit.labels, len(audit.queue), {row["why"] for row in audit.queue}) == (0, 10, {"random"})
    assert all(row["id"].startswith("7000-") for row in audit.queue)
    assert look(home).queue == audit.queue  # what is wanted stays wanted
    asked = look_past_audit(production)
    assert (asked.action, asked.audit["outcome"]) == ("label", "harm")
    assert 10 <= asked.labels == asked.audit["right"] + asked.audit["wrong"] <= 30
    assert len(asked.queue) == ENOUGH - asked.labels
    production.inspect([row["id"] for row in asked.queue])
    called = look(home)
    assert (called.labels, called.action) == (ENOUGH, "retrain")
    write_alarm(home, called.version, read_alarm(home, called.version).with_retrain(time.time()))
    assert look(home).action == "none"


def test_a_change_without_harm_is_audited_once_and_then_known(production: Production) -> None:
    home, line = production.home, SteelLine.default()
    dimmer = line.model_copy(update={"lamp": line.lamp.model_copy(update={"brightness": 0.85})})
    production.send(dimmer, 120, seed=15_000)
    first = look(home)
    assert (first.verdict["decision"], first.action) == ("drift", "audit")
    told = look_past_audit(production)
    assert (told.action, told.audit["outcome"]) == ("none", "no harm")
    assert "no harm found" in told.reason and told.audit["right"] + told.audit["wrong"] <= 30
    assert not read_alarm(home, production.version).is_open
    assert len(read_states(home, production.version)) == 1
    # The same change again bothers nobody, and says that it is known; the old light is quiet as ever.
    for sent, seed in ((dimmer, 16_000), (line, 17_000)):
        production.send(sent, 120, seed=seed)
        report = look(home)
        assert (report.verdict["decision"], report.action) == ("quiet", "none")
        assert ("found to do no harm" in report.verdict["reason"]) == (sent is dimmer)
    # Another one is an alarm again.
    production.send(DRIFTED, 120, seed=18_000)
    assert look(home).action == "audit"
    journal = read_windows(home, production.version)
    assert [line.alarm for line in journal] == ["opened", "closed", "quiet", "quiet", "opened"]
    assert [line.decision for line in journal] == ["drift", "audit", "quiet", "quiet", "drift"]


def test_a_change_that_is_gone_closes_its_alarm(production: Production) -> None:
    home = production.home
    production.send(DRIFTED, 60, seed=13_000)
    assert look(home).action == "audit"
    for number in range(3):
        production.send(SteelLine.default(), 60, seed=14_000 + 100 * number)
        report = look(home)
    assert (report.verdict["decision"], report.action) == ("quiet", "none")
    windows = read_windows(home, production.version)
    assert [window.alarm for window in windows] == ["opened", "open", "open", "closed"]
    assert "look as before" in windows[-1].reason
    assert read_states(home, production.version) == []


def test_a_look_that_was_killed_before_its_end_leaves_one_window(production: Production, monkeypatch) -> None:
    home = production.home
    production.send(DRIFTED, 60, seed=12_000)

    def die(*_args) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watch_steps, "write_alarm", die)
        judge_traffic(home)
    assert len(read_windows(home, production.version)) == 1
    assert look(home).action == "audit"
    assert [window.alarm for window in read_windows(home, production.version)] == ["opened"]


def test_no_prediction_is_in_two_windows(production: Production) -> None:
    production.send(SteelLine.default(), 60, seed=8_000)
    assert judge_traffic(production.home).n == 60
    assert judge_traffic(production.home).decision == "insufficient"
    production.send(SteelLine.default(), 55, seed=8_500)
    assert judge_traffic(production.home).n == 55


def test_one_image_sent_over_and_over_does_not_hide_the_others(production: Production) -> None:
    production.send(DRIFTED, 60, seed=9_000)
    beat = encode_image(render_image(SteelLine.default(), LABELS[0], 1), SteelLine.default())
    log = PredictionLog(production.home.predictions)
    for number in range(300):
        production.log(log, beat, f"beat-{number}")
    log.close()
    assert judge_traffic(production.home).decision == "drift"


def test_a_batch_is_fresh_until_a_version_was_made_with_it(production: Production) -> None:
    home = production.home
    production.inspect(production.send(DRIFTED, ENOUGH, seed=10_000))
    first = collect(home)
    assert (first.sufficient, first.fresh) == (True, ENOUGH)
    # Killed here, nothing was learned: the next retraining takes the same images.
    assert collect(home) == first
    lineage = home.lineage / "made"
    (lineage / "data" / "store").mkdir(parents=True)
    (lineage / "data" / "store" / "intake.json").write_bytes(home.intake.read_bytes())
    assert Path(str(first.path)).name in learned_batches(home)
    assert not collect(home).sufficient


def test_a_corrected_label_of_a_learned_image_is_fresh_and_a_confirmed_one_is_not(
    production: Production, copied
) -> None:
    home = production.home
    image, other = (path.read_bytes() for path in sorted((copied.images / "scratches").iterdir())[:2])
    log = PredictionLog(home.predictions)
    production.truth[production.log(log, image, "wrong")] = "patches"
    production.truth[production.log(log, other, "right")] = "scratches"
    log.close()
    production.inspect(["wrong", "right"])
    assert [(row.id, row.label) for row in read_fresh_labels(home)] == [("wrong", "patches")]
    assert collect(home, force=True).sufficient
    ingest.run(home)
    manifest = read_manifest(home.dataset).set_index("sha256")
    assert set(manifest.loc[hashlib.sha256(image).hexdigest(), "label"]) == {"patches"}
    told = json.loads((home.dataset / "corrections.json").read_text())
    assert [(one["was"], one["now"]) for one in told] == [("scratches", "patches")]


def make_twin(home: Workspace, folder: Path) -> str:
    """Register a version that answers like the champion and is another one, and return it."""
    shutil.copytree(home.bundle, folder)
    (folder / "bundle.json").unlink()
    draft = open_bundle(home.bundle).info.model_dump(include=set(BundleDraft.model_fields)) | {"name": "twin"}
    seal_bundle(folder, draft)
    return Registry(home.models_store).register(folder)


def test_only_what_was_drawn_at_random_speaks_for_the_present_line(production: Production) -> None:
    home = production.home
    production.send(DRIFTED, 120, seed=20_000)
    asked = look_past_audit(production)
    audited = asked.labels
    assert {row["why"] for row in asked.queue} == {"random", "uncertain"}
    assert [row["id"] for row in look(home).queue] == [row["id"] for row in asked.queue]  # what is wanted stays wanted
    production.inspect([row["id"] for row in asked.queue])
    batch = collect(home)
    listed = list_table(Path(str(batch.path)) / "manifest.csv").entries
    drawn = {row["id"] for row in asked.queue if row["why"] == "random"}
    assert len(drawn) == ENOUGH // 2 - audited  # those of the audit were drawn at random too
    assert sum(entry.sampling == "random" for entry in listed) == ENOUGH // 2
    ingest.run(home)
    split.run(home)
    parts = read_split(home.split)
    test = parts[(parts["part"] == "test") & parts["sampling"].notna()]
    assert set(test["sampling"]) == {"random"}
    assert len(test) >= ENOUGH // 6
    sample = gather_sample(home, production.version)
    assert set(np.array(sample.sha256s)[sample.present]) == set(test["sha256"])
    assert not np.any(sample.present & sample.old)


@pytest.mark.slow
def test_an_undecided_challenger_asks_for_random_labels_and_is_judged_again(
    production: Production, tmp_path: Path
) -> None:
    home = production.home
    set_params(home.params, {"retrain.max_request": 20})
    production.send(DRIFTED, 120, seed=30_000)
    asked = look_past_audit(production)
    judges = ENOUGH // 2
    production.inspect([row["id"] for row in asked.queue])
    twin = make_twin(home, tmp_path / "twin")
    verdict = gate(home, twin)
    assert (verdict.decision, verdict.questions[0].asked, verdict.n) == ("undecided", "present line", judges)
    assert promote(home, twin, verdict, "test") == "kept champion"
    assert gate(home, twin).look == 1  # the same images once more are no further look
    production.send(DRIFTED, 40, seed=31_000)
    asked = look(home)
    assert (asked.action, len(asked.queue), {row["why"] for row in asked.queue}) == ("label", 20, {"random"})
    assert twin[:12] in asked.reason
    late = {row.id for row in read_requests(home.predictions, production.version)[-20:]}
    assert all(identity.startswith("31000-") for identity in late)  # what the first choice left over is no sample
    assert find_unsettled(home) is None
    production.inspect([row["id"] for row in asked.queue])
    assert look(home).action == "judge"
    assert find_unsettled(home) == twin
    again = gate(home, twin)
    assert (again.look, again.n) == (2, judges + 20)
    assert again.judged_before == 1  # the first version
    assert find_unsettled(home) is None  # its next request is not answered yet


def test_a_version_whose_run_was_killed_before_its_verdict_is_judged_by_the_next_run(
    production: Production, tmp_path: Path
) -> None:
    home = production.home
    twin = make_twin(home, tmp_path / "twin")
    shutil.rmtree(home.bundle)
    shutil.copytree(tmp_path / "twin", home.bundle)
    assert find_unjudged(home) == twin  # killed between register and promote
    assert look(home).action == "judge"
    report = retrain.fn(home.root)
    assert (report.batch, report.made.version, report.decision) == (None, twin, "kept champion")
    assert find_unjudged(home) is None
    assert (home.lineage / twin / "params.yaml").exists()


def test_a_version_rolled_back_by_hand_stays_back_however_often_it_is_made(
    production: Production, tmp_path: Path
) -> None:
    home, registry = production.home, Registry(production.home.models_store)
    twin = make_twin(home, tmp_path / "twin")
    registry.promote(twin, by="test", reason="better")
    registry.rollback(by="hand", reason="wrong on the night shift")
    for _ in range(3):
        verdict = gate(home, twin)
        assert (verdict.decision, "rolled back" in verdict.reason) == ("keep", True)
        promote(home, twin, verdict, "test")
        assert registry.pointer().champion == production.version
    registry.promote(twin, by="hand", reason="mended")
    registry.promote(production.version, by="test", reason="better")
    assert "rolled back" not in gate(home, twin).reason


def test_labels_whose_images_are_gone_do_not_count(production: Production) -> None:
    home = production.home
    production.inspect(production.send(DRIFTED, ENOUGH, seed=11_000))
    for path in sorted(path for path in home.images.rglob("*") if path.is_file())[:10]:
        path.unlink()
    batch = collect(home)
    assert not batch.sufficient
    assert "no longer kept" in batch.reason


def test_two_trainings_of_one_workspace_wait_for_each_other(production: Production) -> None:
    with hold_lock(production.home, "make"), pytest.raises(WorkspaceBusy), hold_lock(production.home, "make"):
        pass
    with hold_lock(production.home, "make"), hold_lock(production.home, "watch"):
        pass

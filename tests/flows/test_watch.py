"""The watch on logged production: labels first, then a call for a retraining, and what a retraining may learn from."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.steel import DRIFTED, LABELS, SteelLine, encode_image, render_image
from serving.images import ImageStore
from serving.predictions import PredictionLog, PredictionRecord
from serving.preprocess import load_input
from serving.quality import measure_quality
from serving.registry import Registry
from serving.runtime import ModelHandle
from tasks.collect import collect, learned_batches, read_fresh_labels
from tasks.turns import WorkspaceBusy, take_turn
from tasks.watch import decide_action, judge_traffic, read_alarm, write_alarm
from tasks.workspace import Workspace

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
    asked = look(home)
    assert (asked.verdict["decision"], asked.verdict["kind"], asked.action) == ("drift", "image", "label")
    # Labels from before the drift teach nothing about it.
    assert (asked.labels, len(asked.queue)) == (0, ENOUGH)
    production.inspect([row["id"] for row in asked.queue])
    called = look(home)
    assert (called.labels, called.action) == (ENOUGH, "retrain")
    write_alarm(home, called.version, read_alarm(home, called.version).with_retrain(time.time()))
    assert look(home).action == "none"


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


def test_a_label_that_contradicts_the_users_own_is_left_out(production: Production, copied) -> None:
    home = production.home
    image = sorted((copied.images / "scratches").iterdir())[0].read_bytes()
    log = PredictionLog(home.predictions)
    production.truth[production.log(log, image, "known")] = "patches"
    log.close()
    production.inspect(["known"])
    assert read_fresh_labels(home) == []


def test_labels_whose_images_are_gone_do_not_count(production: Production) -> None:
    home = production.home
    production.inspect(production.send(DRIFTED, ENOUGH, seed=11_000))
    for path in sorted(path for path in home.images.rglob("*") if path.is_file())[:10]:
        path.unlink()
    batch = collect(home)
    assert not batch.sufficient
    assert "no longer kept" in batch.reason


def test_two_trainings_of_one_workspace_take_turns(production: Production) -> None:
    with take_turn(production.home, "make"), pytest.raises(WorkspaceBusy), take_turn(production.home, "make"):
        pass
    with take_turn(production.home, "make"), take_turn(production.home, "watch"):
        pass

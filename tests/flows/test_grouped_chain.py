"""Groups of the split reach every figure that is printed, and what was noted stands in the report."""

import json

import pytest

from regraft.data.split.split import read_split, write_split
from regraft.flows.cli.build import _describe
from regraft.models.statistics.intervals import wilson_interval
from regraft.serving.bundle.format import open_bundle
from regraft.tasks.graph.train_report import TrainReport
from regraft.tasks.reporting.notes import list_notes
from regraft.tasks.stages.certify import certify
from regraft.tasks.stages.evaluate import evaluate
from regraft.tasks.stages.export import export
from regraft.tasks.stages.finetune import finetune
from regraft.tasks.stages.select import select


@pytest.mark.slow
def test_groups_of_the_split_are_what_scores_certificate_report_and_terminal_speak_of(copied):
    home = copied.home
    split = read_split(home.split)
    place = split.groupby(["part", "label"]).cumcount() // 3
    split["group"] = split["part"] + "/" + split["label"] + "/" + place.astype(str)
    write_split(home.split, split)
    before = copied.answer["metrics"]["test"]
    for stage in (select, finetune, evaluate, certify, export):
        stage(home)
    metrics = json.loads((home.evaluation / "metrics.json").read_text())
    test, groups = metrics["test"], split.loc[split["part"] == "test", "group"].nunique()
    assert "groups" not in before and (test["n"], test["groups"]) == (before["n"], groups)
    low, high = wilson_interval(test["n"] - test["errors"], test["n"])
    assert test["accuracy_high"] - test["accuracy_low"] > high - low
    assert "training images in " in json.loads((home.selection / "selection.json").read_text())["reason"]
    assert "validation images in " in json.loads((home.checkpoint / "checkpoint.json").read_text())["reason"]
    certificate = json.loads((home.certificate / "certificate.json").read_text())
    assert f"test images in {certificate['groups']} groups" in certificate["reason"]
    page, card = ((home.bundle / name).read_text() for name in ("report.html", "CARD.md"))
    assert f"accuracy on {test['n']} held-out images in {groups} groups" in page
    assert f"On {test['n']} held-out images in {groups} groups" in card
    assert "the gate had judged 1 version by them" in page and "the gate had judged 1 version by them" in card
    assert open_bundle(home.bundle, verify=False).info.metrics["test"]["groups"] == groups
    plain = {name: value for name, value in copied.answer.items() if name in TrainReport.__dataclass_fields__}
    told = _describe(TrainReport(**plain | {"metrics": metrics, "stages": []}), home.root)
    assert f"{test['n']} in {groups} groups" in told


def test_notes_are_gathered_from_every_stage_that_left_some():
    summary = {"images": 12, "distinct": 10, "findings": ["2 images are black"]}
    validation = {"remarks": ["without the class reel", "2 images are black"]}
    notes = list_notes(summary, validation, {"name": "net.a", "licence": "other"})
    assert notes[:2] == ["without the class reel", "2 images are black"]
    assert "2 of 12 images are exact copies" in notes[2]
    assert "its licence is other (one of its own: read it)" in notes[3] and len(notes) == 4
    forbidden = list_notes({}, {}, {"name": "net.a", "licence": "CC BY-NC 4.0"})
    assert "CC-BY-NC-4.0" in forbidden[0]
    assert list_notes({"images": 3, "distinct": 3}, {"success": True}, {"name": "net.a", "licence": "mit"}) == []

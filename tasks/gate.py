"""Step ``gate``: champion and challenger on the same frozen test images, then the verdict."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from data.loading import load_pixels
from models.gate import GateVerdict, compare_versions, judge_first
from serving.bundle import open_bundle
from serving.registry import Registry
from serving.runtime import ModelHandle
from tasks.params import load_params
from tasks.pixels import Part, read_part
from tasks.progress import show_progress
from tasks.step import step
from tasks.workspace import Workspace


@step
def gate(home: Workspace, version: str) -> GateVerdict:
    """Say whether ``version`` may answer in the champion's place."""
    registry = Registry(home.models_store)
    config = load_params(home.params).gate
    champion = registry.pointer().champion
    test = read_part(home, "test")
    challenger_correct = judge_version(home, version, test)
    if champion == version:  # promoted already, perhaps by name: its certificate was known then
        return judge_first(challenger_correct, test.targets, config)
    certificate = open_bundle(home.models_store / "versions" / version, verify=False).info.certificate
    if champion is None:
        return respect_certificate(judge_first(challenger_correct, test.targets, config), certificate, version)
    known = set(pd.read_csv(home.frozen, dtype=str)["sha256"])
    old = np.array([sha256 in known for sha256 in test.sha256s])
    slices = {"old": old, "new": ~old} if old.any() and not old.all() else {}
    verdict = compare_versions(judge_version(home, champion, test), challenger_correct, slices, config)
    if was_rolled_back(registry, version):
        reason = f"{version} was rolled back; bring it back by name: regraft promote {version}"
        return replace(verdict, decision="keep", reason=reason)
    return respect_certificate(verdict, certificate, version)


def respect_certificate(verdict: GateVerdict, certificate: Mapping[str, Any] | None, version: str) -> GateVerdict:
    """Return the verdict, or ``keep`` where the version's own certificate says that transfer hurts.

    The same network does better without its weights, so a better one is at hand than the one that asks.
    """
    if not certificate or certificate.get("decision") != "hurts" or verdict.decision == "keep":
        return verdict
    reason = f"its certificate says that {certificate['reason']}. Promote it all the same: regraft promote {version}"
    return replace(verdict, decision="keep", reason=reason, needed=None)


def was_rolled_back(registry: Registry, version: str) -> bool:
    """Say whether the last change of the pointer took the answer away from ``version``: a rerun must not undo that."""
    entries = registry.journal()
    return bool(entries) and entries[-1].action == "rollback" and registry.pointer().previous == version


def judge_version(home: Workspace, version: str, test: Part, batch: int = 32) -> np.ndarray:
    """Return for each test image whether the registered version names its label, bool ``(N,)``.

    The answers come from the ONNX model that would be served, through its own preprocessing.
    """
    handle = ModelHandle.open(home.models_store / "versions" / version)
    pixels = load_pixels(home.dataset, test.sha256s, handle.info.preprocess, home.cache)
    named: list[str] = []
    with show_progress(f"judging {version}") as progress:
        for start in range(0, len(pixels), batch):
            answers = handle.predict(np.ascontiguousarray(pixels[start : start + batch])).probabilities
            named += [handle.info.labels[index] for index in answers.argmax(axis=1)]
            progress(len(named), len(pixels))
    return np.array(named) == test.rows["label"].to_numpy()

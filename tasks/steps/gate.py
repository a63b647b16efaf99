"""Step ``gate``: champion and challenger on the images that may judge, then the verdict, written down."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from regraft.models.promotion.first_gate import judge_first
from regraft.models.promotion.gate import GateConfig, GateVerdict, Sample, compare_versions
from regraft.serving.bundle.format import open_bundle
from regraft.serving.registry.journal import JournalEntry
from regraft.serving.registry.registry import Registry
from regraft.tasks.graph.prefect_step import step
from regraft.tasks.settings.params import load_params
from regraft.tasks.steps.samples import JudgingSample, answer_sample, gather_sample
from regraft.tasks.workspace.judgements import Judgement, count_judged, count_look, record_judgement
from regraft.tasks.workspace.workspace import Workspace


@step
def gate(home: Workspace, version: str) -> GateVerdict:
    """Say whether ``version`` may answer in the champion's place, and write the judgement down."""
    registry = Registry(home.models_store)
    config = load_params(home.params).gate
    champion = registry.pointer().champion
    if champion == version:  # promoted already, perhaps by name: it is described again, not judged against itself
        champion = None
    sample = gather_sample(home, champion)
    verdict = _judge(home, version, champion, sample, config)
    verdict = _respect_history(home, registry, version, champion, verdict)
    verdict = replace(verdict, judged_before=count_judged(home, but=version))
    _write_down(home, version, champion, sample, config, verdict)
    return verdict


def _judge(
    home: Workspace, version: str, champion: str | None, sample: JudgingSample, config: GateConfig
) -> GateVerdict:
    right = answer_sample(home, version, sample)
    if champion is None:
        return judge_first(right, sample.labels, sample.groups, config)
    whole = Sample(answer_sample(home, champion, sample), right, sample.labels, sample.groups)
    parts: dict[str, Sample] = {}
    if sample.present.any():
        parts["present"] = whole.take(sample.present)
    if sample.old.any() and not sample.old.all():
        parts["old"] = whole.take(sample.old)
    look = count_look(home, version, champion, hash_sample(sample, config))
    return compare_versions(whole, **parts, look=look, config=config)


def hash_sample(sample: JudgingSample, config: GateConfig) -> str:
    """Return what tells one judgement's images, labels and settings from another's, 16 hex digits."""
    told = "\n".join(f"{sha256} {label}" for sha256, label in zip(sample.sha256s, sample.labels, strict=True))
    return hashlib.sha256(f"{config.model_dump_json()}\n{told}".encode()).hexdigest()[:16]


def _respect_history(
    home: Workspace, registry: Registry, version: str, champion: str | None, verdict: GateVerdict
) -> GateVerdict:
    """Return the verdict after what is known of the version beside its answers: a rollback, its certificate, labels."""
    by_name = f"regraft promote {version}"
    info = open_bundle(home.models_store / "versions" / version, verify=False).info
    if champion is not None:
        known = open_bundle(home.models_store / "versions" / champion, verify=False).info.labels
        verdict = replace(verdict, lost_labels=tuple(sorted(set(known) - set(info.labels))))
    if verdict.lost_labels:
        lost = ", ".join(verdict.lost_labels)
        verdict = replace(verdict, reason=f"{verdict.reason}; it no longer names {lost}, as was allowed")
    if champion is not None and version in find_rolled_back(registry.journal()):
        reason = f"{version} was rolled back by hand; bring it back by name: {by_name}"
        return replace(verdict, decision="keep", reason=reason, needed=None)
    if registry.pointer().champion == version:  # its certificate was known when it was promoted
        return verdict
    return respect_certificate(verdict, info.certificate, version)


def respect_certificate(verdict: GateVerdict, certificate: Mapping[str, Any] | None, version: str) -> GateVerdict:
    """Return the verdict, or ``keep`` where the version's own certificate says that transfer hurts.

    The same network does better without its weights, so a better one is at hand than the one that asks.
    """
    if not certificate or certificate.get("decision") != "hurts" or verdict.decision == "keep":
        return verdict
    reason = f"its certificate says that {certificate['reason']}. Promote it all the same: regraft promote {version}"
    return replace(verdict, decision="keep", reason=reason, needed=None)


def find_rolled_back(entries: Sequence[JournalEntry]) -> set[str]:
    """Return the versions that a rollback took the answer from and that nobody has brought back since.

    A person's no outlives every rerun: the whole journal is replayed, whatever automation wrote after it.
    """
    champion: str | None = None
    refused: set[str] = set()
    for entry in entries:
        if entry.action == "rollback" and champion is not None:
            refused.add(champion)
        if entry.action in ("promote", "rollback"):
            champion = entry.version
            refused.discard(entry.version)
    return refused


def _write_down(
    home: Workspace,
    version: str,
    champion: str | None,
    sample: JudgingSample,
    config: GateConfig,
    verdict: GateVerdict,
) -> None:
    record_judgement(
        home,
        Judgement(
            version=version,
            champion=champion,
            at=time.time(),
            look=verdict.look,
            decision=verdict.decision,
            reason=verdict.reason,
            n=verdict.n,
            extra=len(sample.extra),
            needed=verdict.needed,
            sample=hash_sample(sample, config),
        ),
    )

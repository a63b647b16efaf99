"""What the certificate says travels with the version, and harm keeps it out until someone promotes it by name."""

import json
import shutil
from pathlib import Path

from regraft.models.promotion.first_gate import judge_first
from regraft.serving.bundle.format import BundleDraft, open_bundle, seal_bundle
from regraft.serving.registry.registry import Registry
from regraft.tasks.steps.gate import gate, respect_certificate
from regraft.tasks.steps.promote import promote

HURTS = {"decision": "hurts", "reason": "transfer hurts: -0.200 [-0.300, -0.100] in balanced accuracy against scratch"}


def test_the_certificate_is_in_answer_bundle_report_and_card(trained) -> None:
    certificate = json.loads((trained.home.certificate / "certificate.json").read_text())
    assert trained.answer["certificate"] == certificate
    assert open_bundle(trained.home.bundle).info.certificate == certificate
    for name in ("report.html", "CARD.md"):
        assert "Did transfer help?" in (trained.home.bundle / name).read_text()


def test_only_harm_withholds_a_promotion() -> None:
    good = judge_first([True] * 40, [0, 1] * 20)
    assert good.decision == "promote"
    for harmless in (None, {}, {"decision": "helps", "reason": "."}, {"decision": "no evidence", "reason": "."}):
        assert respect_certificate(good, harmless, "abc") == good
    kept = respect_certificate(good, HURTS, "abc")
    assert kept.decision == "keep"
    assert HURTS["reason"] in kept.reason and "regraft promote abc" in kept.reason


def test_a_version_that_transfer_hurts_is_promoted_by_name_only(copied, tmp_path: Path, run_regraft) -> None:
    home, registry = copied.home, Registry(copied.home.models_store)
    shutil.copytree(home.bundle, tmp_path / "harmed")
    (tmp_path / "harmed" / "bundle.json").unlink()
    draft = open_bundle(home.bundle).info.model_dump(include=set(BundleDraft.model_fields)) | {"certificate": HURTS}
    seal_bundle(tmp_path / "harmed", draft)
    version = registry.register(tmp_path / "harmed")
    verdict = gate(home, version)
    assert (verdict.decision, f"regraft promote {version}" in verdict.reason) == ("keep", True)
    assert promote(home, version, verdict, "test") == "kept champion"
    assert run_regraft("promote", version, "--workspace", str(home.root)).returncode == 0
    assert registry.pointer().champion == version
    assert "certificate" not in gate(home, version).reason  # a rerun does not take back what was decided by name

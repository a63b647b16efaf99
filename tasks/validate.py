"""Stage ``validate``: Great Expectations on the manifest; a failed expectation stops the chain."""

import json
import logging
from dataclasses import replace

from data.classes import check_lost, explain_quarantine, list_lost
from data.expectations import DataValidationError, format_failures, validate_dataset
from data.manifest import read_manifest
from serving.durable import write_json
from tasks.graph import stage
from tasks.params import load_params
from tasks.workspace import Workspace

logger = logging.getLogger(__name__)


@stage
def validate(home: Workspace) -> None:
    """Check the classes, then the manifest, and write the verdict.

    Raises:
        LostClassError: If a class that the sources name has no image, and its loss was not allowed by name.
        DataValidationError: If an expectation failed; the verdict is then in the runtime state of the workspace.
    """
    quarantine = json.loads((home.dataset / "quarantine.json").read_text())
    summary = json.loads((home.dataset / "summary.json").read_text())
    named = {label: why or explain_quarantine(label, quarantine) for label, why in summary.get("named", {}).items()}
    lost = list_lost(named, summary["labels"])
    check_lost(str(home.dataset), lost, summary.get("allowed", ()))
    verdict = validate_dataset(read_manifest(home.dataset), quarantine, load_params(home.params).validation)
    gone = dict.fromkeys((label for label in summary.get("allowed", ()) if label not in summary["labels"]), "not there")
    verdict = replace(verdict, lost=gone | lost, notes=tuple(summary.get("notes", ())))
    for line in verdict.remarks:
        logger.warning("%s", line)
    write_json(home.state / "validation.json", verdict.to_json())
    if not verdict.success:
        raise DataValidationError(f"{format_failures(verdict)}\nEvery figure: {home.state / 'validation.json'}")
    write_json(home.validation / "validation.json", verdict.to_json())

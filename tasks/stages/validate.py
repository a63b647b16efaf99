"""Stage ``validate``: classes that are gone, then Great Expectations on the manifest; what fails stops the chain."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from regraft.data.dataset.manifest import read_manifest
from regraft.data.dataset.shards import read_images
from regraft.data.dataset.twins import describe_twins, find_twins, write_twins
from regraft.data.validation.classes import check_lost, explain_quarantine, list_lost
from regraft.data.validation.expectations import DataValidationError, ValidateConfig, format_failures, validate_dataset
from regraft.serving.decoding.preprocess import decode_image
from regraft.serving.files.durable import write_json
from regraft.tasks.graph.graph import stage
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace

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
    lost = check_classes(home, summary, quarantine)
    manifest = read_manifest(home.dataset)
    verdict = validate_dataset(manifest, quarantine, read_section(home.params, "validate", ValidateConfig))
    notes = [*summary.get("notes", ()), *keep_twins(home, manifest)]
    verdict = replace(verdict, lost=lost, notes=tuple(notes))
    for line in verdict.remarks:
        logger.warning("%s", line)
    write_json(home.state / "validation.json", verdict.to_json())
    if not verdict.success:
        raise DataValidationError(f"{format_failures(verdict)}\nEvery figure: {home.state / 'validation.json'}")
    write_json(home.validation / "validation.json", verdict.to_json())


def check_classes(home: Workspace, summary: dict[str, Any], quarantine: list[dict[str, Any]]) -> dict[str, str]:
    """Return the classes that are gone by permission, each with why.

    Raises:
        LostClassError: If one is gone without.
    """
    named = {label: why or explain_quarantine(label, quarantine) for label, why in summary.get("named", {}).items()}
    permitted = dict.fromkeys(summary.get("allowed", ()), "the data have no image of it")
    lost = list_lost(permitted | named, summary["labels"])
    check_lost(str(home.dataset), lost, permitted)
    return lost


def keep_twins(home: Workspace, manifest: pd.DataFrame) -> list[str]:
    """Write which files show the same picture, for the split; return what to say of them."""
    images = manifest.drop_duplicates("sha256").set_index("sha256")

    def read(sha256s: Sequence[str]) -> Iterable[np.ndarray]:
        return (decode_image(image, value_range="own").pixels for image in read_images(home.dataset, sha256s))

    pairs, crowd = find_twins(images["look"].dropna().to_dict(), read)
    write_twins(home.validation, pairs)
    return describe_twins(pairs, crowd, images["path"].to_dict(), images["label"].to_dict())

"""Stage ``validate``: Great Expectations on the manifest; a failed expectation stops the chain."""

import json

from data.expectations import DataValidationError, format_failures, validate_dataset
from data.manifest import read_manifest
from serving.durable import write_json
from tasks.graph import stage
from tasks.params import load_params
from tasks.workspace import Workspace


@stage
def validate(home: Workspace) -> None:
    """Check the manifest and write the verdict.

    Raises:
        DataValidationError: If an expectation failed; the verdict is then in the runtime state of the workspace.
    """
    quarantine = json.loads((home.dataset / "quarantine.json").read_text())
    verdict = validate_dataset(read_manifest(home.dataset), quarantine, load_params(home.params).validation)
    write_json(home.state / "validation.json", verdict.to_json())
    if not verdict.success:
        raise DataValidationError(f"{format_failures(verdict)}\nEvery figure: {home.state / 'validation.json'}")
    write_json(home.validation / "validation.json", verdict.to_json())

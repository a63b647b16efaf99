"""``params.yaml`` as one typed object: the only place where a knob's value is read, checked or changed.

Each section is declared beside the function that it configures; here they only come together. What they inherit is in
``inheritance.py``. All of this is imported with torch: who needs one section takes ``knobs.read_section``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regraft.data.dataset.ingest import IngestConfig
from regraft.data.drift.alarm import RetrainConfig
from regraft.data.drift.config import WatchConfig
from regraft.data.split.split import SplitConfig
from regraft.data.validation.expectations import ValidateConfig
from regraft.models.certificate.config import CertifyConfig
from regraft.models.evaluation.evaluate import EvaluateConfig
from regraft.models.export.onnx import ExportConfig
from regraft.models.promotion.gate import GateConfig
from regraft.models.selection.result import SelectConfig
from regraft.models.training.config import FinetuneConfig
from regraft.serving.endpoint.settings import ServeConfig
from regraft.serving.files.durable import write_bytes
from regraft.tasks.settings.earlier_keys import RETIRED, update_key
from regraft.tasks.settings.editing import edit_text
from regraft.tasks.settings.inheritance import COMMON, complete, list_hiding
from regraft.tasks.settings.knobs import ParamsError, explain_problems, read_content
from regraft.tasks.settings.retention_config import RetentionConfig


class Params(BaseModel):
    """All sections of ``params.yaml``; the eight stages first, then what happens around them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True)

    ingest: IngestConfig = IngestConfig()
    """Opening, measuring and hashing the images."""
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    """What the data must fulfil before anything is trained on it."""
    split: SplitConfig = SplitConfig()
    """Which images train, which choose, which judge."""
    select: SelectConfig = SelectConfig()
    """Candidate backbones and how they are compared."""
    finetune: FinetuneConfig = FinetuneConfig()
    """The training recipe and its budget."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Intervals and bins of the scores."""
    certify: CertifyConfig = CertifyConfig()
    """Whether transfer helped: draws, budgets and the gain that counts."""
    export: ExportConfig = ExportConfig()
    """The bundle and how nearly ONNX must answer like torch."""
    gate: GateConfig = GateConfig()
    """When a challenger is really better."""
    serve: ServeConfig = ServeConfig()
    """The prediction endpoint."""
    watch: WatchConfig = WatchConfig()
    """Windows, error rate and rhythm of the drift watch."""
    retrain: RetrainConfig = RetrainConfig()
    """How many labels a retraining needs and how often it may happen."""
    retention: RetentionConfig = RetentionConfig()
    """What ``regraft clean`` leaves; nothing is ever removed by itself."""


def load_params(path: Path) -> Params:
    """Read and check ``path``.

    Raises:
        ParamsError: Naming every unknown key and every value out of its range.
    """
    return _check(path.read_text(), path, str(path))


def set_params(path: Path, assignments: Mapping[str, Any]) -> None:
    """Set ``section.key`` (or ``section.group.key``) to its value in the file, keeping its comments; all or none.

    Raises:
        ParamsError: If one is unknown or out of range, or the file is not YAML; the file is then unchanged.
    """
    if assignments:
        write_bytes(path, write_params(path, assignments).encode())


def preview_params(path: Path, assignments: Mapping[str, Any]) -> Params:
    """Return the parameters as they would be with ``assignments`` set; nothing is written.

    Raises:
        ParamsError: As ``set_params``, and if the file is not right by itself.
    """
    if not assignments:
        return load_params(path)
    return _check(write_params(path, assignments), path, str(path))


def write_params(path: Path, assignments: Mapping[str, Any]) -> str:
    """Return the text of the file with ``assignments`` set, its comments kept.

    Raises:
        ParamsError: As ``set_params``, and if a key of ``common`` is set that every section overrides.
    """
    assignments = {update_key(key): value for key, value in assignments.items()}
    for key in assignments:
        if key in RETIRED:
            raise ParamsError(f"{key} is no parameter any more: {RETIRED[key]}")
    text, document = edit_text(path.read_text(), assignments, path)
    _check(text, path, f"{path} with {', '.join(assignments)} set anew")
    for key in assignments:
        if key.startswith(f"{COMMON}.") and (hiding := list_hiding(document, key)):
            raise ParamsError(
                f"{key} would change nothing: {path} says {', '.join(hiding)} of their own. Remove those lines to let "
                "the sections inherit, or set them instead"
            )
    return text


def _check(text: str, path: Path, said: str) -> Params:
    content = read_content(text, path)
    try:
        return Params.model_validate(complete(content))
    except ValidationError as error:
        raise ParamsError(f"{said}: {explain_problems(error, content)}") from error

"""``params.yaml`` as one typed object: the only place where a knob's value is read, checked or changed.

Each section is declared beside the function that it configures; here they only come together.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML, YAMLError

from regraft.data.dataset.ingest import IngestConfig
from regraft.data.drift.alarm import RetrainConfig
from regraft.data.drift.verdict import WatchConfig
from regraft.data.split.split import SplitConfig
from regraft.data.validation.expectations import ValidateConfig
from regraft.models.certificate.certify import CertifyConfig
from regraft.models.evaluation.evaluate import EvaluateConfig
from regraft.models.export.onnx import ExportConfig
from regraft.models.promotion.gate import GateConfig
from regraft.models.selection.result import SelectConfig
from regraft.models.training.config import FinetuneConfig
from regraft.serving.endpoint.settings import ServeConfig
from regraft.serving.files.durable import write_bytes
from regraft.tasks.settings.knobs import RETIRED, ParamsError, explain_problems, pass_over_retired
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
    try:
        return _read(path.read_text(), path)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise ParamsError(f"{path}: {explain_problems(error)}") from error


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
    return _read(write_params(path, assignments), path)


def write_params(path: Path, assignments: Mapping[str, Any]) -> str:
    """Return the text of the file with ``assignments`` set, its comments kept.

    Raises:
        ParamsError: As ``set_params``.
    """
    editor = YAML()
    editor.width = 4096  # lines that nobody changed stay as they are
    try:
        document = editor.load(path.read_text()) or {}
    except YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    for key, value in assignments.items():
        if key in RETIRED:
            raise ParamsError(f"{key} is no parameter any more: {RETIRED[key]}")
        _assign(document, key.split("."), value)
    text = _dump(editor, document)
    try:
        _read(text, path)
    except ValidationError as error:
        raise ParamsError(f"{path} with {', '.join(assignments)} set anew: {explain_problems(error)}") from error
    return text


def _read(text: str, path: Path) -> Params:
    return Params.model_validate(pass_over_retired(yaml.safe_load(text) or {}, path))


def _assign(document: Any, path: list[str], value: Any) -> None:
    *groups, name = path
    for group in groups:
        if not isinstance(document.get(group), dict):
            document[group] = {}
        document = document[group]
    if name not in document or document[name] != value:  # an equal one would cost the comment behind it for nothing
        document[name] = value


def _dump(editor: YAML, document: Any) -> str:
    buffer = io.StringIO()
    editor.dump(document, buffer)
    return buffer.getvalue()

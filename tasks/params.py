"""``params.yaml`` as one typed object: the only place where a knob's value is read, checked or changed.

Each section is declared beside the function that it configures; here they only come together.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML

from data.drift.alarm import RetrainConfig
from data.drift.verdict import WatchConfig
from data.expectations import ValidateConfig
from data.ingest import IngestConfig
from data.splits import SplitConfig
from models.evaluation import EvaluateConfig
from models.export import ExportConfig
from models.gate import GateConfig
from models.selection import SelectConfig
from models.training import FinetuneConfig
from serving.durable import write_bytes
from serving.settings import ServeConfig


class ParamsError(ValueError):
    """params.yaml does not say what regraft understands; the message lists every problem."""


class Params(BaseModel):
    """All sections of ``params.yaml``; the seven stages first, then what happens around them."""

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


def load_params(path: Path) -> Params:
    """Read and check ``path``.

    Raises:
        ParamsError: Naming every unknown key and every value out of its range.
    """
    try:
        return Params.model_validate(yaml.safe_load(path.read_text()) or {})
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        raise ParamsError(f"{path}: {_explain(error)}") from error


def set_params(path: Path, assignments: list[str]) -> None:
    """Apply ``section.key=value`` assignments to the file, keeping its comments; all or none.

    Raises:
        ParamsError: If one is malformed, unknown or out of range; the file is then unchanged.
    """
    editor = YAML()
    document = editor.load(path.read_text()) or {}
    for assignment in assignments:
        _assign(document, assignment)
    try:
        Params.model_validate(yaml.safe_load(_dump(editor, document)))
    except ValidationError as error:
        raise ParamsError(f"--set: {_explain(error)}") from error
    if assignments:
        write_bytes(path, _dump(editor, document).encode())


def _assign(document: Any, assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and name):
        raise ParamsError(f"--set takes section.key=value, for example finetune.budget_s=60; it got {assignment!r}")
    document.setdefault(section, {})
    if document[section] is None:
        document[section] = {}
    document[section][name] = yaml.safe_load(text)


def _dump(editor: YAML, document: Any) -> str:
    import io

    buffer = io.StringIO()
    editor.dump(document, buffer)
    return buffer.getvalue()


def _explain(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']} (it is {one['input']!r})" for one in error.errors()
    ]
    return "; ".join(problems)

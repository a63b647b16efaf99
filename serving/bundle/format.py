"""The servable folder: what it contains, how it is sealed, and what makes it unacceptable.

The contract between training and serving. Whether the model inside gives its golden answers is asked in runtime.py.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from regraft.serving.decoding.preprocess import PreprocessSpec
from regraft.serving.files.durable import encode_json, hash_file, write_json
from regraft.serving.files.litter import is_litter

INFO_FILE = "bundle.json"
MODEL_FILE = "model.onnx"
REFERENCE_FILE = "reference.npz"
ANSWERS_FILE = "golden/answers.json"
REQUIRED_FILES = (MODEL_FILE, REFERENCE_FILE, ANSWERS_FILE)
VERSION_DIGITS = 12


class BundleError(Exception):
    """A folder that is not the bundle it claims to be; the message lists every problem."""

    exit_code = 2

    def __init__(self, folder: Path, problems: list[str]) -> None:
        self.folder, self.problems = folder, problems
        listed = "; ".join(problems)
        super().__init__(f"{folder.name} is not a usable bundle: {listed}. Export it again, or restore it from a copy.")

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from the arguments of ``__init__``, so that the error survives a process border."""
        return type(self), (self.folder, self.problems)


class BundleDraft(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Everything about a bundle that its files do not say themselves."""

    format: Literal[1] = 1
    """Version of this format."""
    name: str = Field(min_length=1)
    """Name of the learning problem."""
    labels: list[str] = Field(min_length=1)
    """Classes in the order of the model's outputs."""
    preprocess: PreprocessSpec
    """How bytes become the model's input."""
    thresholds: dict[str, float] = {}
    """Decision thresholds by name."""
    backbone: dict[str, str | None]
    """name, sha256, licence and source of the pretrained body."""
    metrics: dict[str, Any] = {}
    """Held-out metrics with their intervals."""
    certificate: dict[str, Any] | None = None
    """Verdict on whether transfer helped."""
    lineage: dict[str, str] = {}
    """Hashes of dataset, split, params and code."""
    parity: dict[str, Any] = {}
    """max_abs_diff, n and argmax_equal of ONNX against torch."""
    temperature: float = Field(1.0, gt=0)
    """Calibration temperature; it is already applied inside the graph."""
    normalization: dict[str, Any] = {}
    """mean and std; they are already applied inside the graph."""
    embedding_dims: int = Field(ge=1)
    """Width of the graph's embedding output."""


class BundleInfo(BundleDraft, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What ``bundle.json`` holds."""

    version: str = Field(pattern=rf"^[0-9a-f]{{{VERSION_DIGITS}}}$")
    """Derived from everything else here, so equal contents have equal versions."""
    labels_sha256: str
    """Hash of the labels in order; the graph carries the same."""
    preprocess_sha256: str
    """Hash of the preprocessing; the graph carries the same."""
    files: dict[str, str]
    """SHA-256 of every other file by its relative name."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle."""

    path: Path
    info: BundleInfo


def hash_labels(labels: list[str]) -> str:
    """Return the hash of ``labels`` in order, as ``labels_sha256`` in bundle and graph metadata."""
    return hashlib.sha256(json.dumps(list(labels), ensure_ascii=False).encode()).hexdigest()


def seal_bundle(folder: Path, draft: BundleDraft | Mapping[str, Any]) -> BundleInfo:
    """Hash the files of ``folder``, derive the version, and write ``bundle.json`` last, atomically.

    Args:
        folder: Holds all other files of the bundle.
        draft: A BundleDraft, or a mapping of its fields.

    Raises:
        BundleError: If a required file is absent or the draft does not hold.
    """
    try:
        draft = BundleDraft.model_validate(draft if isinstance(draft, BundleDraft) else dict(draft))
    except ValidationError as exc:
        raise BundleError(folder, _list_errors(exc)) from exc
    files = _hash_files(folder)
    problems = [f"{name} is missing" for name in REQUIRED_FILES if name not in files]
    problems += [
        f"label {label!r} occurs twice" for label in sorted(set(draft.labels)) if draft.labels.count(label) > 1
    ]
    if problems:
        raise BundleError(folder, problems)
    derived = {
        "files": files,
        "labels_sha256": hash_labels(draft.labels),
        "preprocess_sha256": draft.preprocess.sha256,
    }
    try:
        content = json.loads(encode_json(draft.model_dump() | derived))
    except (ValueError, TypeError) as exc:  # NaN, or values of numpy
        raise BundleError(folder, [f"the description cannot be written as JSON: {exc}"]) from exc
    info = BundleInfo.model_validate(content | {"version": _derive_version(content)})
    write_json(folder / INFO_FILE, info.model_dump(mode="json"))
    return info


def open_bundle(folder: Path, *, verify: bool = True) -> Bundle:
    """Return the bundle in ``folder``; with ``verify`` every file is hashed again.

    Raises:
        BundleError: Listing all problems: missing, changed and extra files, wrong format or hashes.
    """
    info = _read_info(folder)
    problems = _check_info(info)
    if verify:
        problems += _check_files(folder, info.files)
    if problems:
        raise BundleError(folder, problems)
    return Bundle(folder, info)


def _read_info(folder: Path) -> BundleInfo:
    path = folder / INFO_FILE
    try:
        return BundleInfo.model_validate_json(path.read_bytes())
    except FileNotFoundError as exc:
        raise BundleError(folder, [f"{INFO_FILE} is missing (is this the folder that export wrote?)"]) from exc
    except OSError as exc:
        raise BundleError(folder, [f"{INFO_FILE} cannot be read: {exc.strerror}"]) from exc
    except ValidationError as exc:
        raise BundleError(folder, [f"{INFO_FILE}: {problem}" for problem in _list_errors(exc)]) from exc


def _check_info(info: BundleInfo) -> list[str]:
    problems = [f"{name} is not listed in {INFO_FILE}" for name in REQUIRED_FILES if name not in info.files]
    if info.labels_sha256 != hash_labels(info.labels):
        problems.append("labels_sha256 is not the hash of the labels")
    if info.preprocess_sha256 != info.preprocess.sha256:
        problems.append("preprocess_sha256 is not the hash of the preprocessing")
    derived = _derive_version(info.model_dump(mode="json", exclude={"version"}))
    if info.version != derived:
        problems.append(f"version is {info.version}, the contents make {derived}")
    return problems


def _check_files(folder: Path, listed: dict[str, str]) -> list[str]:
    found = _hash_files(folder)
    missing = [f"{name} is missing" for name in sorted(set(listed) - set(found))]
    changed = [f"{name} was changed" for name in sorted(set(listed) & set(found)) if listed[name] != found[name]]
    extra = [f"{name} is not part of the bundle" for name in sorted(set(found) - set(listed))]
    return missing + changed + extra


def _hash_files(folder: Path) -> dict[str, str]:
    """Return the hash of every file below ``folder`` but ``bundle.json``; links are named, never followed.

    What a desktop leaves in a folder that it shows is not read by anybody and does not make a bundle another one.
    """
    hashes = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(is_litter(part) for part in path.relative_to(folder).parts):
            continue
        if path.is_symlink():
            hashes[name] = f"link to {path.readlink()}"
        elif path.is_file() and name != INFO_FILE:
            hashes[name] = hash_file(path)
    return hashes


def _derive_version(content: dict[str, Any]) -> str:
    return hashlib.sha256(encode_json(content)).hexdigest()[:VERSION_DIGITS]


def _list_errors(exc: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, error['loc'])) or 'content'}: {error['msg']}" for error in exc.errors()]

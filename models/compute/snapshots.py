"""Snapshots of unfinished work that survive kill -9: either complete and verified, or as if they were not there."""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from regraft.serving.files.durable import hash_file, replace_folder, write_json

logger = logging.getLogger(__name__)

COMMIT_FILE = "commit.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was saved: named sets of tensors and a JSON-able rest (floats come back bit for bit)."""

    tensors: dict[str, dict[str, Tensor]]
    info: dict[str, Any]


class ResumeFolder:
    """Snapshots of one run, told from those of other inputs by ``key``."""

    def __init__(self, folder: Path, key: str) -> None:
        """Use ``folder``; ``key`` is a hash of everything that the work depends on."""
        self.folder = folder
        self.key = key

    def save(self, name: str, snapshot: Snapshot) -> None:
        """Write the snapshot ``name``: files, then the commit marker with their hashes, then one rename."""
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        hashes = {}
        for kind, tensors in snapshot.tensors.items():
            path = temporary / f"{kind}.safetensors"
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)
            hashes[kind] = hash_file(path)
        write_json(temporary / COMMIT_FILE, {"key": self.key, "sha256": hashes, "info": snapshot.info})
        replace_folder(temporary, self.folder / name)

    def load(self, name: str) -> Snapshot | None:
        """Return the snapshot ``name``, or None if it is absent, incomplete, damaged or of another run."""
        folder = self.folder / name
        try:
            commit = json.loads((folder / COMMIT_FILE).read_text())
            if commit["key"] != self.key:
                return None
            tensors = {}
            for kind, digest in commit["sha256"].items():
                path = folder / f"{kind}.safetensors"
                if hash_file(path) != digest:
                    return None
                tensors[kind] = load_file(path)
            return Snapshot(tensors, commit["info"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None

    def save_step(self, step: int, snapshot: Snapshot) -> None:
        """Write the snapshot after ``step`` and keep only the one before it besides."""
        self.save(f"step-{step:08d}", snapshot)
        for old in self.list_steps()[2:]:
            shutil.rmtree(old, ignore_errors=True)

    def load_latest_step(self) -> Snapshot | None:
        """Return the newest valid snapshot of a step."""
        for folder in self.list_steps():
            snapshot = self.load(folder.name)
            if snapshot is not None:
                logger.info("training resumes from=%s", folder.name)
                return snapshot
        return None

    def list_steps(self) -> list[Path]:
        """Return the folders of steps, newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def clear(self) -> None:
        """Remove everything: the work is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

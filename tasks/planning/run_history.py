"""Steps ``read_run_history`` and ``extend_run_history``: what earlier runs on other data found, and what this one adds.

The graph must not depend on a file that every run changes, so ``select`` reads a copy that leaves the data set at hand
out: running the same data again changes nothing.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

from regraft.data.dataset.manifest import read_manifest
from regraft.models.classifier.checkpoint import read_checkpoint_info
from regraft.models.prior.run_history import Descriptors, Recipe, RunRecord, append_record, read_records
from regraft.models.selection.result import Candidate, SelectConfig, Selection, load_selection
from regraft.serving.files.durable import write_bytes
from regraft.tasks.graph.part_arrays import Part, read_part, read_sizes
from regraft.tasks.graph.prefect_step import step
from regraft.tasks.settings.knobs import read_section
from regraft.tasks.workspace.workspace import Workspace


@step
def read_run_history(home: Workspace) -> int:
    """Put what earlier runs on other data found where ``select`` reads it; return how many results there are."""
    return refresh_known_runs(home)


def refresh_known_runs(home: Workspace) -> int:
    """Do what ``read_run_history`` does, also outside of a run: a forecast must see what ``select`` will see."""
    dataset = hash_dataset(home)
    records = [record for record in read_records(find_record(home)) if record.dataset != dataset]
    # In an order of their own: copies of a workspace got them from each other in different ones.
    text = "".join(sorted(record.model_dump_json() + "\n" for record in records)).encode()
    if not home.known_runs.exists() or home.known_runs.read_bytes() != text:
        write_bytes(home.known_runs, text)
    return len(records)


@step
def extend_run_history(home: Workspace) -> int:
    """Add what this run found to the track record; return how many results were new."""
    selection, _ = load_selection(home.selection)
    known = read_part(home, "train", "validation")
    fixed = {
        "dataset": hash_dataset(home),
        "labels": _digest([*known.labels, *map(str, known.targets)]),
        "descriptors": describe_dataset(home, known),
    }
    added = 0
    for row in selection.ranking:
        recipe = Recipe(kept="probe", budget=0, size_px=row.preprocess.size_px)
        added += _add(home, fixed, row, recipe, row.score, selection.n)
    return added + _add_winner(home, fixed, selection)


def _add_winner(home: Workspace, fixed: dict, selection: Selection) -> bool:
    from regraft.tasks.settings.params import load_params  # all sections: too much for the stage that needs the rest

    info = read_checkpoint_info(home.checkpoint)
    found, row = info.validation[info.kept], selection.winner
    shown = info.steps * load_params(home.params).finetune.batch_size if info.kept == "finetuned" else 0
    recipe = Recipe(kept=info.kept, budget=shown, size_px=row.preprocess.size_px)
    return _add(home, fixed, row, recipe, found.accuracy, found.n)


def _add(home: Workspace, fixed: dict, row: Candidate, recipe: Recipe, score: float, n: int) -> bool:
    record = RunRecord(candidate=row.name, weights=row.sha256, recipe=recipe, score=score, n=n, **fixed)
    return append_record(find_record(home), record)


def find_record(home: Workspace) -> Path:
    """Return the track record of this workspace: its own, or one shared with others that params.yaml names."""
    shared = read_section(home.params, "select", SelectConfig).track_record
    return home.track_record if shared is None else (home.root / Path(shared).expanduser())


def hash_dataset(home: Workspace) -> str:
    """Return the SHA-256 of the manifest."""
    return hashlib.sha256((home.dataset / "manifest.parquet").read_bytes()).hexdigest()


def describe_dataset(home: Workspace, known: Part) -> Descriptors:
    """Return what makes this data set like or unlike others."""
    sizes = read_sizes(home, known)
    counts = np.bincount(known.targets)
    manifest = read_manifest(home.dataset)
    return Descriptors(
        n_train=int(np.sum(known.rows["part"] == "train")),
        classes=len(known.labels),
        imbalance=float(counts.max() / max(1, counts.min())),
        grey_share=float(np.mean(manifest["mode"].isin(["L", "1", "LA", "I", "I;16", "I;16B", "F"]))),
        median_side_px=float(np.median(sizes.min(axis=1))),
        mean_aspect=float(np.mean(sizes.max(axis=1) / sizes.min(axis=1).clip(1))),
    )


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

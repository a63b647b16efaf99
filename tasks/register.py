"""Step ``register``: the bundle becomes an immutable version, with the lock that leads back to its data."""

import shutil

from serving.durable import replace_folder
from serving.registry import Registry
from tasks.step import step
from tasks.workspace import Workspace

LINEAGE = (
    "dvc.yaml",
    "dvc.lock",
    "params.yaml",
    "code.yaml",
    "backbones.lock.json",
    "data/store/intake.json",
    "data/store/frozen.csv",
)
"""What it takes to check the data of a version out again, relative to the workspace."""


@step
def register(home: Workspace) -> str:
    """Copy the bundle into the registry, keep its lineage and return the version. Again: nothing changes."""
    version = Registry(home.models_store).register(home.bundle)
    final = home.lineage / version
    if not final.exists():
        temporary = home.lineage / f".{version}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        for name in LINEAGE:
            if (home.root / name).exists():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(home.root / name, temporary / name)
        replace_folder(temporary, final)
    return version

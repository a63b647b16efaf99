"""Step ``register``: the bundle becomes an immutable version, with the lock that leads back to its data."""

import shutil
from collections.abc import Mapping

from serving.durable import replace_folder, write_bytes
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
    if not (home.lineage / version).exists():
        found = {name: home.root / name for name in LINEAGE}
        keep_lineage(home, version, {name: path.read_bytes() for name, path in found.items() if path.exists()})
    return version


def keep_lineage(home: Workspace, version: str, files: Mapping[str, bytes]) -> None:
    """Write the lineage of ``version``: content by name, relative to the workspace."""
    temporary = home.lineage / f".{version}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, content in files.items():
        write_bytes(temporary / name, content)
    replace_folder(temporary, home.lineage / version)

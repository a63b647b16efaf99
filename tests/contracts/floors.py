"""Check the arrows of ``.importlinter``: ``python tests/contracts/floors.py [ROOT]``.

import-linter reads a package from one folder, and the floors of regraft lie beside each other in the repository: they
are laid out here as they are installed, in a temporary folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FLOORS = ("flows", "tasks", "models", "data", "serving")


def lay_out(root: Path, into: Path) -> None:
    """Copy the code of ``root`` to ``into/regraft`` as an installation has it."""
    unwanted = shutil.ignore_patterns("store", "__pycache__", "*.safetensors")
    shutil.copytree(root / "regraft", into / "regraft", ignore=unwanted)
    for floor in FLOORS:
        shutil.copytree(root / floor, into / "regraft" / floor, ignore=unwanted)


def main(root: Path) -> int:
    """Return the exit code of ``lint-imports`` on the code of ``root``."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(root, Path(folder))
        command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
        environment = os.environ | {"PYTHONPATH": folder}
        done = subprocess.run([*command, "--config", root / ".importlinter"], cwd=folder, env=environment, check=False)
        return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2]).resolve()))

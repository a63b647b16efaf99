"""The peers' own virtual environment, made once in a cache folder: fastai does not belong into regraft's."""

import hashlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REQUIREMENTS = ("torch", "torchvision", "timm", "fastai")
CONSTRAINTS = (ROOT / "constraints.txt", HERE / "constraints.txt")
"""Regraft's own pins, so that torch, torchvision and timm are equal on both sides, and fastai's."""
STARTUP = (HERE / "declare_first.py", ROOT / "models" / "compute" / "torchvision_gap.py")
"""Modules copied into the environment: torchvision's compiled operators cannot load there either."""
NAME = "regraft-peers-venv"
STAMP = "complete.sha256"


class EnvironmentFolderError(RuntimeError):
    """The folder where the environment belongs holds something else, or its packages could not be installed."""


def prepare_environment(cache: Path) -> Path:
    """Return the peers' Python below ``cache``; makes the environment if it is missing, partial or of other pins.

    Raises:
        EnvironmentFolderError: If the folder is not a virtual environment, or pip fails; pip's last lines are in it.
    """
    folder = cache.absolute() / NAME
    stamp, digest = folder / STAMP, digest_recipe()
    if not stamp.is_file() or stamp.read_text() != digest:
        remove_environment(folder)
        run_command([sys.executable, "-m", "venv", folder])
        install_packages(folder)
        stamp.write_text(digest)
    return folder / "bin" / "python"


def digest_recipe() -> str:
    """Return the SHA-256 of everything the environment is made from, the Python version included."""
    parts = [sys.version, *REQUIREMENTS, *(path.read_text() for path in (*CONSTRAINTS, *STARTUP))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def remove_environment(folder: Path) -> None:
    """Remove an environment of ours that is partial or out of date; refuse to remove anything else."""
    if not folder.exists():
        return
    if not (folder / "pyvenv.cfg").is_file():
        raise EnvironmentFolderError(
            f"{folder} is not a virtual environment. Move it away or give another cache folder."
        )
    shutil.rmtree(folder)


def install_packages(folder: Path) -> None:
    """Install the pinned packages and the modules every start of the environment's Python loads."""
    logger.info("installing %s into %s", ", ".join(REQUIREMENTS), folder)
    pins = [part for path in CONSTRAINTS for part in ("-c", path)]
    run_command([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *pins, *REQUIREMENTS])
    packages = next(folder.glob("lib/python*/site-packages"))
    for module in STARTUP:
        shutil.copy(module, packages)
    # Not sitecustomize.py: some systems have one in the standard library's folder, which is found first.
    (packages / "declare_first.pth").write_text("import declare_first\n")


def run_command(command: list[str | Path]) -> None:
    """Run one command to its end.

    Raises:
        EnvironmentFolderError: If it fails.
    """
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if result.returncode:
        raise EnvironmentFolderError(f"{' '.join(map(str, command))} failed: {result.stderr.strip()[-2000:]}")

"""The arrows of the architecture, and proof that the check can fail."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINTER = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--config", str(root / ".importlinter"), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env={"PYTHONPATH": str(root)}, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for floor in ("flows", "tasks", "models", "data", "serving"):
        unwanted = shutil.ignore_patterns("store", "__pycache__", "*.safetensors")
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=unwanted)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_floors_are_respected() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("serving/quality.py", "import data.intake", "An upper floor may import a lower one"),
        ("data/splits.py", "import models.gate", "An upper floor may import a lower one"),
        ("flows/train.py", "import torch", "torch stays out"),
        ("models/gate.py", "import prefect", "Prefect stays out"),
        ("data/splits.py", "import serving.registry", "must agree on"),
        ("serving/bundle.py", "import pandas", "stands alone"),
    ],
)
def test_a_planted_import_breaks_its_contract(copy: Path, module: str, line: str, contract: str) -> None:
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(copy)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(contract in row for row in broken), result.stdout


def test_every_package_is_listed_for_installation() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for floor in ("flows", "tasks", "models", "data", "serving"):
        for init in (ROOT / floor).rglob("__init__.py"):
            if "store" not in init.parts:
                found.add(".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found


def test_the_linter_reads_all_floors() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    assert config["importlinter"]["root_packages"].split() == ["flows", "tasks", "models", "data", "serving"]

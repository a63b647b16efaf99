"""The arrows of the architecture, and proof that the check can fail."""

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECK = Path(__file__).with_name("floors.py")
FLOORS = ("flows", "tasks", "models", "data", "serving")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    unwanted = shutil.ignore_patterns("store", "__pycache__", "*.safetensors")
    for folder in ("regraft", *FLOORS):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unwanted)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def test_floors_are_respected() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("serving/decoding/quality.py", "import regraft.data.sources.sources", "An upper floor may import a lower one"),
        ("data/split/split.py", "import regraft.models.promotion.gate", "An upper floor may import a lower one"),
        ("flows/train.py", "import torch", "torch stays out"),
        ("models/promotion/gate.py", "import prefect", "Prefect stays out"),
        ("data/split/split.py", "import regraft.serving.registry.registry", "must agree on"),
        ("serving/bundle/format.py", "import pandas", "stands alone"),
        ("models/statistics/paired.py", "import regraft.models.promotion.gate", "The rooms of models"),
        ("flows/commands.py", "import regraft.runs", "stands above the floors"),
        ("serving/files/durable.py", "import regraft.serving.bundle.format", "The rooms of serving"),
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
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = [
        ".".join(("regraft", *init.parent.relative_to(ROOT).parts))
        for floor in FLOORS
        for init in (ROOT / floor).rglob("__init__.py")
        if "store" not in init.parts
    ]
    assert sorted(listed) == sorted(["regraft", *found])


def test_every_room_has_its_place_in_a_contract() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter")
    for floor in FLOORS:
        layers = config[f"importlinter:contract:rooms-{floor}"]["layers"].replace("|", " ").split()
        rooms = {init.parent.name for init in (ROOT / floor).glob("*/__init__.py")}
        assert rooms <= set(layers), floor


def test_every_room_says_what_to_read_first() -> None:
    for init in [init for floor in FLOORS for init in (ROOT / floor).glob("*/__init__.py")]:
        if init.parent.name == "embedded":  # weights and their recipe, no code
            continue
        said = re.search(r"Read first: ``(\w+)\.(\w+)``", init.read_text())
        assert said, init
        source = init.with_name(f"{said[1]}.py").read_text()
        assert re.search(rf"^(def|class) {said[2]}\b", source, re.MULTILINE), init


def test_no_room_is_crowded() -> None:
    for init in [init for floor in FLOORS for init in (ROOT / floor).glob("*/__init__.py")]:
        files = [path for path in init.parent.glob("*.py") if path != init]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        assert len(files) <= 12 and lines <= 2000, (init.parent, len(files), lines)


def test_the_drawing_shows_every_room() -> None:
    drawing = (ROOT / "docs" / "architecture.md").read_text()
    for floor in FLOORS:
        lines = re.search(rf"subgraph {floor}\[.*?direction LR\n(.*?)\n  end", drawing, re.DOTALL)
        assert lines, floor
        rooms = {init.parent.name for init in (ROOT / floor).glob("*/__init__.py")}
        assert set(re.findall(r"\w+", re.sub(r"\w+\[\"(\w+)\"\]", r"\1", lines[1]))) == rooms, floor

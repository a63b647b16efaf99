"""What is imported is declared, and what is declared is imported."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("regraft", "flows", "tasks", "models", "data", "serving")
NEVER_IMPORTED = {
    "fastapi": "bounded for Prefect's server",
    "sqlalchemy": "bounded for Prefect's schedules",
    "onnxscript": "torch.onnx imports it",
    "torchvision": "timm imports it",
}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def list_imported(sources: list[str]) -> set[str]:
    """Return the top-level names that are imported, without those of Python and of regraft."""
    names: set[str] = set()
    for node in [node for source in sources for node in ast.walk(ast.parse(source))]:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {"regraft"}


def compare(sources: list[str], declared: set[str]) -> tuple[list[str], list[str]]:
    """Return the names imported and not declared, and the distributions declared and not imported."""
    known = packages_distributions()
    owners = {name: {normalise(one) for one in known.get(name, [name])} for name in list_imported(sources)}
    undeclared = sorted(name for name, dists in owners.items() if not dists & declared)
    return undeclared, sorted(declared - set().union(*owners.values()) - set(NEVER_IMPORTED))


def read_declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {normalise(re.split(r"[<>=\[ ]", line)[0]) for line in project["dependencies"]}


def read_sources() -> list[str]:
    return [path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]


def test_declared_is_imported_and_imported_is_declared() -> None:
    assert compare(read_sources(), read_declared()) == ([], [])


def test_a_missing_and_an_idle_requirement_are_found() -> None:
    declared = read_declared() - {"httpx"} | {"matplotlib"}
    assert compare(read_sources(), declared) == (["httpx"], ["matplotlib"])

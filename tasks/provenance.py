"""Which code a stage runs: a hash over the stage's module and every first-party module it reaches.

DVC watches ``code.yaml`` as a parameter file, so an upgrade that changes a stage makes that stage run again, also in
workspaces that lie far from the installed package.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from serving.durable import write_bytes

FLOORS = ("tasks", "models", "data", "serving")
PACKAGE_ROOT = Path(__file__).resolve().parents[1]
PAGES = {PACKAGE_ROOT / "models" / "report" / name for name in ("template.html", "style.css")}
"""What the report is made with beside code."""
# What drives the stages decides nothing about their outputs.
DRIVERS = {
    f"tasks.{name}"
    for name in (
        "graph",
        "params",
        "pins",
        "progress",
        "provenance",
        "repository",
        "retention_config",
        "runs",
        "step",
        "workspace",
    )
}


def refresh_code(path: Path, stages: list[str]) -> dict[str, str]:
    """Write the code hash of each stage to ``path`` if any changed, and return them."""
    hashes = {stage: hash_code(stage) for stage in stages if _find(f"tasks.{stage}").exists()}
    text = yaml.safe_dump(hashes, sort_keys=True).encode()
    if not path.exists() or path.read_bytes() != text:
        write_bytes(path, text)
    return hashes


def hash_code(stage: str) -> str:
    """Return 16 hex digits over the source of ``tasks/<stage>.py`` and all it imports of the four lower floors."""
    digest = hashlib.sha256()
    for module in sorted(_reach(f"tasks.{stage}")):
        digest.update(module.encode() + b"\0" + _find(module).read_bytes())
        for page in sorted(PAGES & set(_find(module).parent.iterdir())) if module == "models.report" else ():
            digest.update(page.read_bytes())
    return digest.hexdigest()[:16]


def _reach(start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module not in seen and module not in DRIVERS:
            seen.add(module)
            waiting += [*_imports(module), *([module.rpartition(".")[0]] if "." in module else [])]
    return seen


@cache
def _imports(module: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_walk_imports(_find(module))))


def _walk_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in FLOORS and _find(name).exists():
                yield name


def _find(module: str) -> Path:
    path = PACKAGE_ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

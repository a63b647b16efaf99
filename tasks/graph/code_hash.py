"""Which code a stage runs: a hash over the stage's module, every first-party module it reaches, and what these read.

DVC watches ``code.yaml`` as a parameter file, so an upgrade that changes a stage makes that stage run again, also in
workspaces that lie far from the installed package.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from regraft.serving.files.durable import write_bytes

FLOORS = ("tasks", "models", "data", "serving")
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
"""Holds the floors: the repository, or ``regraft`` where it is installed."""
CODE = {".py", ".pyc"}
SETTINGS = "earlier_keys editing inheritance knobs params refusals retention_config terms watched"
# What drives the stages decides nothing about their outputs.
DRIVERS = {
    "regraft",
    "regraft.tasks.planning.offer",
    *(f"regraft.tasks.graph.{name}" for name in ("code_hash", "graph", "prefect_step", "progress")),
    *(f"regraft.tasks.settings.{name}" for name in SETTINGS.split()),
    *(f"regraft.tasks.workspace.{name}" for name in ("dvc_repo", "locks", "pins", "run_log", "workspace")),
}


def refresh_code(path: Path, stages: list[str], offer: str | None = None) -> dict[str, str]:
    """Write the code hash of each stage to ``path`` if any changed, and return them.

    Args:
        path: code.yaml.
        stages: Names of the stages.
        offer: Hash of the backbones on offer, which ``select`` depends on like on its code; it stays when None.
    """
    hashes = {stage: hash_code(stage) for stage in stages if _find(_name_module(stage)).exists()}
    offer = offer or read_offer(path)
    if offer and "select" in hashes:
        hashes["select"] += f"+{offer}"
    text = yaml.safe_dump(hashes, sort_keys=True).encode()
    if not path.exists() or path.read_bytes() != text:
        write_bytes(path, text)
    return hashes


def read_offer(path: Path) -> str | None:
    """Return the hash of the backbones that were on offer when ``path`` was written, None if it says nothing of it."""
    known = yaml.safe_load(path.read_text()) if path.exists() else None
    return (known or {}).get("select", "").partition("+")[2] or None


def hash_code(stage: str) -> str:
    """Return 16 hex digits over the source of ``tasks/stages/<stage>.py`` and all it reaches of the four lower floors.

    That is every module imported, and every other file beside a module that the module or such a file names: a table,
    a page, a style.
    """
    digest = hashlib.sha256()
    for module in sorted(_reach(_name_module(stage))):
        digest.update(module.encode() + b"\0" + _find(module).read_bytes())
        for file in list_read_files(_find(module)):
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def list_read_files(module: Path) -> list[Path]:
    """Return the files in the module's own folder that its source names, or a file so named does, by name."""
    beside = {file.name: file for file in module.parent.iterdir() if file.is_file() and file.suffix not in CODE}
    named: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        text = waiting.pop().read_text(errors="replace")
        found = [file for name, file in beside.items() if name in text and name not in named]
        named |= {file.name: file for file in found}
        waiting += found
    return [named[name] for name in sorted(named)]


def _name_module(stage: str) -> str:
    return f"regraft.tasks.stages.{stage}"


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
            package, _, rest = name.partition(".")
            if package == "regraft" and rest.partition(".")[0] in FLOORS and _find(name).exists():
                yield name


def _find(module: str) -> Path:
    path = PACKAGE_ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

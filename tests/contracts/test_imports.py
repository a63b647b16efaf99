"""Every module can be the first one that is imported: no order of imports is a secret."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("serving", "data", "models", "tasks", "flows", "benchmarks")
TIMID = {"timm", "torchvision"}
"""Packages that import only after a declaration of ours, and then with switches that must be set before."""
FIRST = ("regraft.models.compute.torchvision_gap", "regraft.serving.silence")
ALONE = """
import importlib, json, os, sys
names = json.loads(sys.argv[1])
for name in names:
    importlib.import_module(name)
# What is not ours stays imported, so that each fork below imports our modules only; operators are declared once.
ours = [name for name in sys.modules if name.partition(".")[0] in set(json.loads(sys.argv[2]))]
for name in ours:
    if name not in ("regraft.models.compute.torchvision_gap",):
        del sys.modules[name]
failed = []
for name in names:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{name}: {error!r}\\n")
            sys.stderr.flush()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.stdout.write(json.dumps(failed))
"""


def list_modules() -> dict[str, Path]:
    """Return every module of the project by name, except programs, which run when they are imported."""
    found = {}
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if path.stem != "__main__" and "peers" not in parts:
                name = ".".join(parts).removesuffix(".__init__")
                found[name if floor == "benchmarks" else f"regraft.{name}"] = path
    return found


def find_undeclared(source: str) -> list[str]:
    """Return what a module lacks that imports timm or torchvision: each of ``FIRST``, at its top, before."""
    tree = ast.parse(source)
    uses = [node.lineno for node in ast.walk(tree) if TIMID & {name.partition(".")[0] for name in _imported(node)}]
    if not uses:
        return []
    # Inside a function it runs after everything at the top; at the top itself, order is what matters.
    top = [node.lineno for node in tree.body if TIMID & {name.partition(".")[0] for name in _imported(node)}]
    before = min(top, default=float("inf"))
    # A program that also runs where regraft is not installed tries to.
    steps = [step for node in tree.body for step in (node.body if isinstance(node, ast.Try) else [node])]
    declared = {name for step in steps if step.lineno < before for name in _imported(step)}
    return [name for name in FIRST if name not in declared]


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_whoever_imports_timm_declares_what_it_needs_first() -> None:
    lacking = {name: find_undeclared(path.read_text()) for name, path in list_modules().items()}
    assert {name: lacks for name, lacks in lacking.items() if lacks} == {}


def test_a_module_that_forgets_the_declaration_is_found() -> None:
    assert find_undeclared("import timm\n") == list(FIRST)
    assert find_undeclared(
        "import timm\nimport regraft.models.compute.torchvision_gap\nimport regraft.serving.silence\n"
    ) == list(FIRST)
    assert find_undeclared("def f():\n    from timm import models\n") == list(FIRST)
    tried = "try:\n    import regraft.models.compute.torchvision_gap\nexcept ImportError:\n    pass\nimport timm\n"
    assert find_undeclared(tried) == ["regraft.serving.silence"]
    assert (
        find_undeclared("import regraft.models.compute.torchvision_gap\nimport regraft.serving.silence\nimport timm\n")
        == []
    )


@pytest.mark.slow
def test_every_module_can_be_imported_first() -> None:
    """One interpreter imports all packages of others; a fork of it imports each of our modules before any other."""
    names = [name for name in list_modules() if not name.startswith("benchmarks")]
    assert len(names) > 120
    command = [sys.executable, "-P", "-W", "ignore", "-c", ALONE, json.dumps(names), json.dumps(["regraft"])]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [], done.stderr[-3000:]

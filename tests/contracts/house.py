"""Measure the house: ``python tests/contracts/house.py [ROOT] [--json]`` prints rooms, arrows, files and functions.

A room is a folder of a floor, or a module that lies in a floor itself. ``test_house.py`` holds the ceilings.
"""

import argparse
import ast
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOORS = ("flows", "tasks", "models", "data", "serving", "regraft")
PACKAGE = "regraft"
MAX_FUNCTION, MAX_ARGUMENTS = 50, 7
LOOP, MAX_LOOP = "models/training/loop.py:run_training", 80
"""The training loop may be longer: cut up, it would hide in which order things happen."""
RUN = 6
"""Lines that make a repetition when they occur twice in a row."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
Arrows = dict[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Function:
    """A function or method as it stands in its file.

    Attributes:
        place: File below the root, colon, its own name without the class.
        lines: From the first decorator or ``def`` to the end, docstring included.
        arguments: Positional and keyword-only ones without ``self`` and ``cls``; ``*args`` and ``**kwargs`` count.
        is_command: Whether it is a command of the command line: then its arguments are options that people see.
    """

    place: str
    lines: int
    arguments: int
    is_command: bool

    @property
    def is_long(self) -> bool:
        """Say whether it has more lines than a function may have."""
        return self.lines > (MAX_LOOP if self.place == LOOP else MAX_FUNCTION)

    @property
    def is_wide(self) -> bool:
        """Say whether it takes more arguments than a function may take."""
        return self.arguments > MAX_ARGUMENTS


@dataclass(frozen=True, slots=True)
class House:
    """What was measured: lines of each file, all functions, which room imports which, runs of lines that occur twice.

    ``repeated`` counts different runs of ``RUN`` lines that occur more than once, wherever they stand.
    """

    files: dict[str, int]
    functions: tuple[Function, ...]
    arrows: Arrows
    repeated: int

    @property
    def circles(self) -> list[list[str]]:
        """Return the sets of rooms that import each other, directly or through others, sorted."""
        reached = {room: reach(room, self.arrows) for room in self.arrows}
        circles = set()
        for room, others in reached.items():
            if room in others:
                circles.add(tuple(sorted({room} | {other for other in others if room in reached[other]})))
        return [list(circle) for circle in sorted(circles)]

    @property
    def long_functions(self) -> list[str]:
        """Return the functions over the ceiling, each with its lines."""
        return [f"{each.place} ({each.lines} lines)" for each in self.functions if each.is_long]

    @property
    def wide_functions(self) -> list[str]:
        """Return the functions over the ceiling of arguments, each with their number."""
        return [f"{each.place} ({each.arguments})" for each in self.functions if each.is_wide and not each.is_command]

    @property
    def wide_commands(self) -> list[str]:
        """Return the commands with as many options; no ceiling holds for them."""
        return [f"{each.place} ({each.arguments})" for each in self.functions if each.is_wide and each.is_command]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        largest = max(self.files, key=lambda file: (self.files[file], file))
        return {
            "rooms": len(self.arrows),
            "arrows": {room: sorted(to) for room, to in sorted(self.arrows.items()) if to},
            "circles": self.circles,
            "files": len(self.files),
            "lines": sum(self.files.values()),
            "median_file": statistics.median(self.files.values()),
            "largest_file": {"file": largest, "lines": self.files[largest]},
            "long_functions": self.long_functions,
            "wide_functions": self.wide_functions,
            "wide_commands": self.wide_commands,
            "repeated_runs": self.repeated,
        }


def reach(room: str, arrows: Arrows) -> set[str]:
    """Return the rooms that can be reached from ``room`` along the arrows; itself only on a circle."""
    found: set[str] = set()
    left = list(arrows.get(room, ()))
    while left:
        each = left.pop()
        if each not in found:
            found.add(each)
            left.extend(arrows.get(each, ()))
    return found


def measure_house(root: Path) -> House:
    """Return the figures of the code below ``root``.

    Raises:
        SystemExit: If there is no code.
    """
    sources = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in list_sources(root)}
    if not sources:
        raise SystemExit(f"no Python file in {', '.join(FLOORS)} below {root}; give the root of the repository.")
    trees = {file: ast.parse(source, file) for file, source in sources.items()}
    rooms = {name_room(file) for file in sources}
    arrows: dict[str, set[str]] = {room: set() for room in rooms}
    for file, tree in trees.items():
        here = name_room(file)
        arrows[here] |= {room for module in list_imports(file, tree) if (room := find_room(module, rooms))} - {here}
    return House(
        {file: len(source.splitlines()) for file, source in sources.items()},
        tuple(each for file, tree in trees.items() for each in list_functions(file, tree)),
        {room: frozenset(to) for room, to in arrows.items()},
        count_repeated(list_lines(source, trees[file]) for file, source in sources.items()),
    )


def list_sources(root: Path) -> list[Path]:
    """Return the Python files of all floors, sorted; ``store`` holds data, whatever it is called."""
    found = (path for floor in FLOORS for path in (root / floor).rglob("*.py"))
    return sorted(path for path in found if "store" not in path.relative_to(root).parts)


def name_room(file: str) -> str:
    """Return the room of a file: ``models/training`` of ``models/training/loop.py``, ``flows/train`` of a module."""
    parts = file.removesuffix(".py").removesuffix("/__init__").split("/")
    return "/".join(parts[:2])


def find_room(module: str, rooms: set[str]) -> str | None:
    """Return the room that holds an imported module of ours, None for a foreign one."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    ours = parts[1:] if len(parts) > 1 and parts[1] in FLOORS else parts
    room = "/".join(ours[:2])
    return room if room in rooms else ours[0] if ours[0] in rooms else None


def list_imports(file: str, tree: ast.Module) -> Iterator[str]:
    """Yield the modules that a file imports, wherever in it, with what it takes from them behind a dot.

    Raises:
        ValueError: If it imports relatively: then the module's name is not in the line.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{file}:{node.lineno} imports relatively; write the whole name of the module.")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_functions(file: str, tree: ast.Module) -> list[Function]:
    """Return all functions and methods of a file, nested ones too."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = {id(each) for body in bodies for each in body if isinstance(each, FunctionNode) and not is_static(each)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            begin = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            arguments = count_arguments(node) - (id(node) in methods)
            lines = (node.end_lineno or begin) - begin + 1
            found.append(Function(f"{file}:{node.name}", lines, arguments, is_command(node)))
    return found


def is_static(node: FunctionNode) -> bool:
    """Say whether a method has neither ``self`` nor ``cls``."""
    return any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)


def is_command(node: FunctionNode) -> bool:
    """Say whether a function is decorated as ``@app.command(...)``."""
    calls = [each.func for each in node.decorator_list if isinstance(each, ast.Call)]
    return any(isinstance(call, ast.Attribute) and call.attr == "command" for call in calls)


def count_arguments(node: FunctionNode) -> int:
    """Return the number of arguments, ``self`` included."""
    given = node.args
    starred = [each for each in (given.vararg, given.kwarg) if each is not None]
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) + len(starred)


def list_lines(source: str, tree: ast.Module) -> list[str]:
    """Return the lines of a file as repetitions are looked for: without indents, blank lines, comments and imports."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    left_out = {line for node in imports for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = [line.strip() for number, line in enumerate(source.splitlines(), start=1) if number not in left_out]
    return [line for line in lines if line and not line.startswith("#")]


def count_repeated(files: Iterable[list[str]]) -> int:
    """Return how many different runs of ``RUN`` lines occur more than once in all files together."""
    runs: Counter[tuple[str, ...]] = Counter()
    for lines in files:
        runs.update(tuple(lines[start : start + RUN]) for start in range(len(lines) - RUN + 1))
    return sum(count > 1 for count in runs.values())


def describe_house(house: House) -> str:
    """Return the figures as text, a line each; what is over a ceiling is named below its figure."""
    figures = house.to_json()
    largest = figures["largest_file"]
    rows = [
        ("rooms", figures["rooms"], []),
        ("arrows between rooms", sum(len(to) for to in figures["arrows"].values()), []),
        ("circles", len(house.circles), [" <-> ".join(circle) for circle in house.circles]),
        ("files", figures["files"], []),
        ("lines", figures["lines"], []),
        ("median file, lines", figures["median_file"], []),
        ("largest file, lines", largest["lines"], [largest["file"]]),
        (f"functions over {MAX_FUNCTION} lines", len(house.long_functions), house.long_functions),
        (f"functions over {MAX_ARGUMENTS} arguments", len(house.wide_functions), house.wide_functions),
        (f"commands over {MAX_ARGUMENTS} options", len(house.wide_commands), house.wide_commands),
        (f"repeated runs of {RUN} lines", house.repeated, []),
    ]
    return "\n".join(
        line for name, value, named in rows for line in (f"{name:30}{value}", *(f"    {n}" for n in named))
    )


def main() -> None:
    """Print the figures of the house."""
    parser = argparse.ArgumentParser(description="Measure rooms, files and functions of the product's folders.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(), help="Of the repository. Default: this folder.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    given = parser.parse_args()
    house = measure_house(given.root.resolve())
    sys.stdout.write((json.dumps(house.to_json(), indent=1) if given.json else describe_house(house)) + "\n")


if __name__ == "__main__":
    main()

"""Every error that a person may see says itself how it ends a command; nobody has to keep a list of them."""

import ast
import builtins
import errno
from pathlib import Path

import pytest

from regraft.data.synthetic.steel import SteelLine, render_folder
from regraft.flows.errors.exit_codes import judge_error

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("flows", "tasks", "data", "models", "serving")
CODES = {None, 1, 2, 3, 4}


def find_exceptions(sources: list[str]) -> dict[str, tuple[list[str], object]]:
    """Return name -> (names of its bases, its own exit_code or ...) of each class that is an exception."""
    classes: dict[str, tuple[list[str], object]] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                bases = [base.id if isinstance(base, ast.Name) else getattr(base, "attr", "") for base in node.bases]
                classes[node.name] = (bases, _own_code(node))
    builtin = {name for name, value in vars(builtins).items() if _is_exception(value)}
    known = set(builtin)
    while found := {name for name, (bases, _) in classes.items() if name not in known and known & set(bases)}:
        known |= found
    return {name: classes[name] for name in known - builtin}


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _own_code(node: ast.ClassDef) -> object:
    for line in node.body:
        if isinstance(line, ast.Assign) and [getattr(target, "id", "") for target in line.targets] == ["exit_code"]:
            return ast.literal_eval(line.value)
    return ...


def find_unclassified(sources: list[str]) -> list[str]:
    found = find_exceptions(sources)

    def code(name: str) -> object:
        bases, own = found[name]
        inherited = [code(base) for base in bases if base in found]
        return own if own is not ... else next((one for one in inherited if one is not ...), ...)

    return sorted(name for name in found if code(name) not in CODES)


def test_every_exception_of_the_project_says_how_it_ends_a_command() -> None:
    sources = [
        path.read_text() for floor in FLOORS for path in (ROOT / floor).rglob("*.py") if "store" not in path.parts
    ]
    assert len(find_exceptions(sources)) > 25
    assert find_unclassified(sources) == []


def test_a_new_exception_without_an_exit_code_is_found() -> None:
    planted = (
        "class Sound(ValueError):\n    exit_code = 2\nclass Child(Sound): pass\nclass Forgotten(RuntimeError): pass\n"
    )
    assert find_unclassified([planted]) == ["Forgotten"]


def test_what_was_raised_from_a_planned_error_ends_as_that_one() -> None:
    class PlannedError(ValueError):
        exit_code = 3

    outer = RuntimeError("the task failed")
    outer.__cause__ = PlannedError("the gate said no")
    outcome = judge_error(outer)
    assert (outcome.code, outcome.message, outcome.fault) == (3, "the gate said no", False)
    assert judge_error(KeyError("x")).fault


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/w/x"), "the disk is full: /w/x could not be written"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/w/x"), "the disk is full: /w/x"),
        (OSError(errno.EROFS, "Read-only file system", "/w/params.yaml"), "/w/params.yaml cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied", "/w/params.yaml"), "no permission for /w/params.yaml"),
        (OSError(errno.EMFILE, "Too many open files", "/w/x"), "ulimit -n"),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), "the disk is full"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "the disk is full"),
        (RuntimeError("(sqlite3.OperationalError) attempt to write a readonly database"), "read-only"),
    ],
)
def test_a_disk_that_cannot_be_written_is_named_and_is_no_fault_of_ours(error: Exception, says: str) -> None:
    outcome = judge_error(error)
    assert (outcome.code, outcome.fault) == (1, False)
    assert says in outcome.message


def test_a_write_that_does_not_know_its_file_is_told_by_who_wrote(tmp_path: Path) -> None:
    """``write()`` raises without a name on a full disk; the frames of our code have it."""

    def refuse(done: int, total: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        render_folder(tmp_path / "here", SteelLine.default(), 1, seed=0, progress=refuse)
    assert str(tmp_path / "here") in judge_error(caught.value).message


def test_a_copy_that_does_not_fit_names_where_it_was_to_go(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "from"), None, str(tmp_path / "to"))
    assert f"{tmp_path / 'to'} could not be written" in judge_error(error).message

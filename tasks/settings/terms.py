"""The terms of a run: settings and sources that are its own until a version is made with them.

They are written where the stages and DVC read them, in ``params.yaml`` and ``intake.json``, but only under the lock and
after every check, and with a copy of what stood there. A run that is refused puts the copy back. A run that was cut
short leaves the copy: the next ``train`` goes on with its terms, unless it brings others or is a retraining; then what
stood before is put back first.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from regraft.serving.files.durable import replace_folder, write_bytes, write_json
from regraft.tasks.settings.refusals import is_refusal
from regraft.tasks.settings.watched import watch_inherited
from regraft.tasks.workspace.dvc_repo import open_repository
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)

NOTE = "terms.json"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run was asked for.

    Attributes:
        flow: "train" or "retrain".
        settings: ``section.key`` and value, as ``--set`` gives them.
        data: The folder or manifest that becomes the origin.
        time_budget_s: Seconds within which the run should end.
        allow_lost: Classes that may be lost, by name.
        layout: How the origin is to be read, as far as it was said.
    """

    flow: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    time_budget_s: float | None = None
    allow_lost: Sequence[str] = ()
    layout: Mapping[str, Any] = field(default_factory=dict)

    def covers(self, earlier: "Terms") -> bool:
        """Say whether these terms set anew all that ``earlier`` did, so that nothing of it is left in force."""
        return (
            self.flow == earlier.flow
            and set(earlier.settings) <= set(self.settings)
            and earlier.data in (None, self.data)
            and earlier.time_budget_s in (None, self.time_budget_s)
            and set(earlier.allow_lost) <= set(self.allow_lost)
            and (not earlier.layout or dict(earlier.layout) == dict(self.layout))
        )

    def describe(self) -> str:
        """Return the terms in words."""
        said = [f"{key}={value}" for key, value in self.settings.items()]
        said += [f"images of {self.data}"] if self.data else []
        said += [f"the class {label} allowed to be lost" for label in self.allow_lost]
        said += [f"{name}={value}" for name, value in self.layout.items()]
        said += [f"a time budget of {self.time_budget_s:g} s"] if self.time_budget_s else []
        return f"{self.flow} with {', '.join(said)}" if said else self.flow


@contextmanager
def hold_terms(home: Workspace, asked: Terms) -> Iterator[Terms]:
    """Put ``asked`` in force for the block and yield the terms that hold; must be called under the lock to make.

    Raises:
        ParamsError: If the settings are wrong; nothing is then changed.
    """
    from regraft.tasks.settings.params import preview_params  # torch comes with it: a stage run alone goes without

    held = _settle_earlier(home, asked)
    preview_params(home.params, held.settings)
    _begin(home, held)
    try:
        amend_terms(home, held.settings)
        yield held
    except Exception as error:
        if is_refusal(error):
            put_back(home)
        raise
    keep_terms(home)


def amend_terms(home: Workspace, settings: Mapping[str, Any]) -> None:
    """Set ``settings`` in params.yaml as terms of the run under way, if one is.

    Raises:
        ParamsError: If one is wrong; the file is then unchanged.
    """
    if not settings:
        return
    from regraft.tasks.settings.params import write_params  # as above

    text, folder = write_params(home.params, settings), _folder(home)
    if folder.exists():
        note = _read_note(folder)
        # Noted before it is done: what stands in the file is then always known to be ours.
        write_json(folder / NOTE, note | {"wrote": [*note["wrote"], _digest(text.encode())]})
    write_bytes(home.params, text.encode())


def keep_terms(home: Workspace) -> None:
    """Let the terms stand: a version was made with them, or there was nothing to do."""
    folder = _folder(home)
    if folder.exists():
        gone = folder.with_name(".terms.gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)


def put_back(home: Workspace) -> None:
    """Put back what stood before the run under way, with the outputs that DVC keeps of it."""
    folder = _folder(home)
    if not folder.exists():
        return
    before = Workspace(folder)
    ran = not _is_same(home.lock, before.lock)
    for kept, path in zip(list_changed(before), list_changed(home), strict=True):
        if path == home.params and not _is_ours(home, folder):
            logger.warning("%s was edited since the run began; it stays as it is", home.params)
        else:
            _restore(kept, path)
    watch_inherited(home)
    if ran:
        _bring_outputs(home)
    keep_terms(home)


def _settle_earlier(home: Workspace, asked: Terms) -> Terms:
    """Return the terms that hold: those of a run that was cut short if ``asked`` goes on with it; else put it back."""
    folder = _folder(home)
    shutil.rmtree(folder.with_name(".terms.gone"), ignore_errors=True)
    if not folder.exists():
        return asked
    written = _read_note(folder)["terms"]
    earlier = Terms(**written | {"allow_lost": tuple(written.get("allow_lost", ()))})
    if asked.covers(earlier):
        return asked
    if asked == Terms(earlier.flow):
        logger.warning("going on with a run that was cut short: %s", earlier.describe())
        return earlier
    logger.warning("what stood before a run that was cut short (%s) is put back", earlier.describe())
    put_back(home)
    return asked


def _begin(home: Workspace, terms: Terms) -> None:
    folder = _folder(home)
    if folder.exists():  # it goes on: what stood before the first of the two is what would be put back
        write_json(folder / NOTE, _read_note(folder) | {"terms": asdict(terms)})
        return
    temporary = folder.with_name(".terms.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path, kept in zip(list_changed(home), list_changed(Workspace(temporary)), strict=True):
        if path.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
    write_json(temporary / NOTE, {"terms": asdict(terms), "wrote": []})
    replace_folder(temporary, folder)


def list_changed(home: Workspace) -> list[Path]:
    """Return what a run changes beside the outputs of its stages."""
    return [home.params, home.code, home.lock, home.intake, home.frozen, home.known_runs]


def _is_ours(home: Workspace, folder: Path) -> bool:
    """Say whether params.yaml holds what the run found or wrote, so that nobody's edit is lost."""
    if not home.params.exists():
        return True
    wrote = [*_read_note(folder)["wrote"], _digest(Workspace(folder).params.read_bytes())]
    return _digest(home.params.read_bytes()) in wrote


def _bring_outputs(home: Workspace) -> None:
    if not home.lock.exists():
        home.split.unlink(missing_ok=True)  # or the parts of refused images would count as decided
        return
    try:
        with open_repository(home.root) as repo:
            repo.checkout(force=True)
    except Exception as error:  # DVC's many kinds; the stages would then run again
        logger.warning("not every earlier output could be brought back, its stage will run again: %s", error)


def _restore(kept: Path, path: Path) -> None:
    if _is_same(kept, path):
        return
    if kept.exists():
        write_bytes(path, kept.read_bytes())
    else:
        path.unlink(missing_ok=True)


def _is_same(one: Path, other: Path) -> bool:
    return (one.read_bytes() if one.exists() else None) == (other.read_bytes() if other.exists() else None)


def _folder(home: Workspace) -> Path:
    return home.state / "terms"


def _read_note(folder: Path) -> dict[str, Any]:
    return json.loads((folder / NOTE).read_text())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""What a workspace writes down so that no machine's own settings decide: DVC's configuration, and what git leaves out.

Settings of a user or a machine (``~/.config/dvc``) are merged below those of a repository; where they can make a
workspace impossible, the repository says it itself. ``.dvc/config.local`` still has the last word.
"""

from pathlib import Path
from typing import Any

from regraft.serving.files.durable import write_bytes
from regraft.serving.files.litter import PATTERNS
from regraft.tasks.workspace.dvc_repo import open_repository

DVC_IGNORED = (
    ".regraft",
    "models/store/lineage",
    "models/store/versions",
    "models/store/backbones",
    "data/store/feedback",
    *PATTERNS,
)
GIT_IGNORED = (
    "# Bytes are DVC's. Runtime state stays here: kept images of production, predictions, logs, caches, remote.",
    "/.regraft/",
    "/.dvc/cache",
    "/.dvc/tmp",
    "/.dvc/config.local",
    "/data/store/*",
    "!/data/store/intake.json",
    "!/data/store/frozen.csv",
    "/models/store/*",
    "!/models/store/known_runs.jsonl",
    *PATTERNS,
)
SETTINGS: dict[str, dict[str, Any]] = {
    "core": {
        "remote": "store",
        "analytics": False,
        "check_update": False,
        "autostage": False,
        "interactive": False,
    },
    # Links into the cache are refused in a bundle, and a write through one would change every version that shares it.
    # A cache that others share could not be cleaned.
    "cache": {"type": "reflink,copy", "dir": ".dvc/cache"},
    "hydra": {"enabled": False},
}
UNPINNED_OUT = "      - data/store/dataset\n"
PINNED_OUT = "      - data/store/dataset:\n          persist: true # images whose source is gone are read from here\n"


def pin_settings(root: Path) -> None:
    """Write the settings that ``root``, a DVC repository, lacks; a second call writes nothing.

    Raises:
        StorageError: If the workspace may not be written.
    """
    extend_lines(root / ".dvcignore", DVC_IGNORED)
    extend_lines(root / ".gitignore", GIT_IGNORED)
    _pin_graph(root / "dvc.yaml")
    with open_repository(root) as repo:
        known = repo.config.load_one("repo")
        wanted = {section: dict(values) for section, values in SETTINGS.items()}
        if (root / ".git").exists() and known["core"].get("no_scm"):  # it became a git repository since
            wanted["core"]["no_scm"] = False
        lacking = {
            section: changed
            for section, values in wanted.items()
            if (changed := {key: value for key, value in values.items() if _is_lacking(known[section], key)})
        }
        if lacking:
            with repo.config.edit() as config:
                for section, values in lacking.items():
                    config[section] |= values


def _is_lacking(section: dict[str, Any], key: str) -> bool:
    if key == "no_scm":
        return True
    return key not in section or (key == "type" and "symlink" in str(section[key]))


def _pin_graph(path: Path) -> None:
    """Let ``dvc repro`` keep the data set while it makes a new one; graphs of earlier versions did not say so."""
    text = path.read_text() if path.exists() else ""
    if UNPINNED_OUT in text:
        head, _, tail = text.partition(UNPINNED_OUT)
        # Only where it is an output; as a dependency of later stages the same line stays.
        if head.rstrip().endswith("outs:"):
            write_bytes(path, (head + PINNED_OUT + tail).encode())


def extend_lines(path: Path, wanted: tuple[str, ...]) -> None:
    """Add the lines that the file lacks at its end."""
    lines = path.read_text().splitlines() if path.exists() else []
    absent = [line for line in wanted if line not in lines]
    if absent:
        write_bytes(path, ("\n".join([*lines, *absent]) + "\n").encode())

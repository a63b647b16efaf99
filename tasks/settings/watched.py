"""Which keys of ``common`` DVC watches for a stage: those that the stage inherits and that ``params.yaml`` holds.

DVC refuses a graph that names a key which is not there, and does not notice a key that the graph does not name. A
workspace keeps the ``dvc.yaml`` that it began with, so its graph is brought up to date with its parameters: one of
before ``common`` stays as it is until somebody writes that section.
"""

import io
from typing import Any

import yaml

from regraft.serving.files.durable import write_bytes
from regraft.tasks.settings.inheritance import COMMON, INHERITED, is_written
from regraft.tasks.workspace.workspace import Workspace


def watch_inherited(home: Workspace) -> None:
    """Let the workspace's ``dvc.yaml`` name, for each stage, the keys of ``common`` that there are to inherit."""
    graph = home.graph
    try:
        text, content = graph.read_text(), yaml.safe_load(home.params.read_text())
    except (FileNotFoundError, yaml.YAMLError):
        return  # whoever needs the file says what is wrong with it
    if not _list_changed(yaml.safe_load(text), content):
        return
    from ruamel.yaml import YAML  # hardly ever needed, so not for every stage

    editor = YAML()
    editor.width = 4096
    editor.indent(mapping=2, sequence=4, offset=2)  # as the graph of a new workspace is written
    document = editor.load(text)
    for stage, wanted in _list_changed(document, content).items():
        watched = document["stages"][stage]["params"]
        for key in _list_inherited(watched, stage):
            watched.remove(key)
        for key in reversed(wanted):
            watched.insert(watched.index(stage) + 1, key)
    buffer = io.StringIO()
    editor.dump(document, buffer)
    write_bytes(graph, buffer.getvalue().encode())


def _list_changed(graph: Any, content: Any) -> dict[str, list[str]]:
    """Return what is to be watched for each stage where something else is; a stage watched in another way is left."""
    changed = {}
    for stage, keys in INHERITED.items():
        watched = graph["stages"].get(stage, {}).get("params") or []
        wanted = [f"{COMMON}.{key}" for key in keys if is_written(content, [COMMON, key])]
        if stage in watched and COMMON not in watched and set(_list_inherited(watched, stage)) != set(wanted):
            changed[stage] = wanted
    return changed


def _list_inherited(watched: list[Any], stage: str) -> list[str]:
    return [key for key in watched if key in [f"{COMMON}.{one}" for one in INHERITED[stage]]]

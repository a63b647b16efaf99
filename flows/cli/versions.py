"""Commands on versions: list, promote, roll back, restore the data of one."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.app import JsonOption, WorkspaceOption, answer, app
from serving.registry import Registry, VersionEntry
from tasks.workspace import open_workspace

HERE = Path()
VersionArgument = Annotated[str, typer.Argument(help="A version, or as many of its first digits as make it unique.")]


@app.command(epilog="Example: regraft models --workspace W --json")
def models(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """List the registered versions, who answers, and the journal of promotions."""
    registry = Registry(open_workspace(workspace).models_store)
    pointer = registry.pointer()
    rows = [_row(entry) for entry in registry.versions()]
    result = {"pointer": asdict(pointer), "versions": rows, "journal": [asdict(entry) for entry in registry.journal()]}
    wide = max((len(str(row["backbone"])) for row in rows), default=0)
    lines = [
        f"{row['version']}  {row['role'] or '-':<10}  {row['backbone']:<{wide}}  test accuracy {_say(row)}"
        for row in rows
    ]
    lines += [
        f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(entry.at))}  {entry.action} {entry.version} "
        f"by {entry.by}: {entry.reason}"
        for entry in registry.journal()
    ]
    answer(result, as_json, "\n".join(lines) or "no version yet; make one with: regraft train --data DIR")


@app.command(epilog="Example: regraft promote 3f9a --workspace W --reason 'asked by the plant'")
def promote(
    version: VersionArgument,
    workspace: WorkspaceOption = HERE,
    reason: Annotated[str, typer.Option(help="For the journal.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Make a registered version the champion, whatever the gate said; a running endpoint swaps within seconds."""
    registry = Registry(open_workspace(workspace).models_store)
    registry.promote(registry.resolve(version), by="command line", reason=reason)
    _answer_pointer(registry, as_json)


@app.command(epilog="Example: regraft rollback --workspace W")
def rollback(
    workspace: WorkspaceOption = HERE,
    reason: Annotated[str, typer.Option(help="For the journal.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Give the answer back to the previous champion."""
    registry = Registry(open_workspace(workspace).models_store)
    registry.rollback(by="command line", reason=reason)
    _answer_pointer(registry, as_json)


@app.command(epilog="Example: regraft restore 3f9a --workspace W --into old/")
def restore(
    version: VersionArgument,
    into: Annotated[Path, typer.Option(help="A new folder.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Check the data, parameters and artifacts of a version out into a new workspace, byte for byte."""
    from tasks.push import restore as restore_version

    home = open_workspace(workspace)
    full = Registry(home.models_store).resolve(version)
    restored = restore_version(home, full, into)
    answer({"version": full, "workspace": str(restored.root)}, as_json, f"version {full} is at {restored.root}")


def _row(entry: VersionEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "role": entry.role,
        "backbone": entry.info.backbone["name"],
    } | {name: entry.info.metrics.get("test", {}).get(name) for name in ("accuracy", "n", "groups")}


def _say(row: dict[str, Any]) -> str:
    if row["accuracy"] is None:
        return "unknown"
    groups = f" in {row['groups']} groups" if row["groups"] else ""
    return f"{row['accuracy']:.4f} on {row['n']} images{groups}"


def _answer_pointer(registry: Registry, as_json: bool) -> None:
    pointer = registry.pointer()
    answer(asdict(pointer), as_json, f"champion {pointer.champion}, previous {pointer.previous or '-'}")

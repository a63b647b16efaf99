"""Commands on versions: list, promote, roll back, restore the data of one."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import JsonOption, WorkspaceOption, answer, app
from tasks.workspace import open_workspace

HERE = Path()
VersionArgument = Annotated[str, typer.Argument(help="A version, or as many of its first digits as make it unique.")]


@app.command(epilog="Example: regraft models --workspace W --json")
def models(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """List the registered versions, who answers, and the journal of promotions."""
    from serving.registry import Registry

    registry = Registry(open_workspace(workspace).models_store)
    pointer = registry.pointer()
    rows = [_row(registry, version, pointer) for version in registry.versions()]
    result = {"pointer": _plain(pointer), "versions": rows, "journal": [_plain(entry) for entry in registry.journal()]}
    lines = [
        f"{row['version']}  {row['role'] or '-':<10}  {row['backbone']}  test accuracy {row['accuracy']}"
        for row in rows
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
    from serving.registry import Registry

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
    from serving.registry import Registry

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
    from serving.registry import Registry
    from tasks.push import restore as restore_version

    home = open_workspace(workspace)
    full = Registry(home.models_store).resolve(version)
    restored = restore_version(home, full, into)
    answer({"version": full, "workspace": str(restored.root)}, as_json, f"version {full} is at {restored.root}")


def _row(registry: object, version: object, pointer: object) -> dict[str, object]:
    from serving.bundle import open_bundle

    info = open_bundle(registry.root / "versions" / version.version, verify=False).info
    roles = [role for role in ("champion", "challenger", "previous") if getattr(pointer, role) == version.version]
    accuracy = info.metrics.get("test", {}).get("accuracy")
    return {
        "version": version.version,
        "role": ", ".join(roles),
        "backbone": info.backbone["name"],
        "accuracy": accuracy,
    }


def _plain(value: object) -> dict[str, object]:
    from dataclasses import asdict, is_dataclass

    return asdict(value) if is_dataclass(value) else value.model_dump()


def _answer_pointer(registry: object, as_json: bool) -> None:
    pointer = registry.pointer()
    answer(_plain(pointer), as_json, f"champion {pointer.champion}, previous {pointer.previous or '-'}")

"""Commands on versions: list, promote, roll back, restore the data of one."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.flows import commands
from regraft.flows.cli.app import JsonOption, WorkspaceOption, answer, app
from regraft.tasks.workspace.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from regraft.serving.registry.registry import Registry, VersionEntry

HERE = Path()
VersionArgument = Annotated[str, typer.Argument(help="A version, or as many of its first digits as make it unique.")]


@app.command(epilog="Example: regraft models --workspace W --json")
def models(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """List the registered versions, who answers, and the journal of promotions."""
    registry = _open_registry(open_workspace(workspace))
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
    pointer = commands.promote(open_workspace(workspace), version, "command line", reason)
    answer(asdict(pointer), as_json, f"champion {pointer.champion}, previous {pointer.previous or '-'}")


@app.command(epilog="Example: regraft rollback --workspace W")
def rollback(
    workspace: WorkspaceOption = HERE,
    reason: Annotated[str, typer.Option(help="For the journal.")] = "by hand",
    as_json: JsonOption = False,
) -> None:
    """Give the answer back to the previous champion. Once: a second time would bring the faulty one back.

    A version that was rolled back is not promoted again by a run; `regraft promote` does it by name.
    """
    before, after = commands.rollback(open_workspace(workspace), "command line", reason)
    undo = f"regraft promote {after.previous} --workspace {workspace}"
    said = f"rolled back from {before.champion} to {after.champion}; to undo it: {undo}"
    answer(asdict(after), as_json, said)


@app.command(epilog="Example: regraft restore 3f9a --workspace W --into old/")
def restore(
    version: VersionArgument,
    into: Annotated[Path, typer.Option(help="A new folder.")],
    workspace: WorkspaceOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Check the data, parameters and artifacts of a version out into a new workspace, byte for byte."""
    home = open_workspace(workspace)
    full = _open_registry(home).resolve(version)
    from regraft.tasks.steps.push import restore as restore_version

    restored = restore_version(home, full, into)
    answer({"version": full, "workspace": str(restored.root)}, as_json, f"version {full} is at {restored.root}")


@app.command(epilog="Example: regraft push --workspace W")
def push(workspace: WorkspaceOption = HERE, as_json: JsonOption = False) -> None:
    """Send data, versions, pointer, journal and history to the DVC remote, where other copies find them.

    Every training does so at its end; after a promotion or rollback by hand it is yours to do. Exit code 2 if another
    copy changed the pointer meanwhile: settle it with `regraft pull`.
    """
    from regraft.tasks.steps.push import push as push_all
    from regraft.tasks.workspace.locks import hold_lock

    home = open_workspace(workspace)
    with hold_lock(home, "make"):
        sent = push_all(home)
    answer({"objects": sent}, as_json, f"{sent} objects sent; the remote has all versions and the journal")


@app.command(epilog="Example: git clone REPO W && regraft pull --workspace W && regraft serve --workspace W")
def pull(
    workspace: WorkspaceOption = HERE,
    every: Annotated[
        bool, typer.Option("--all", help="Get every version, not only champion, challenger and previous.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Get data, versions, pointer, journal and history that other copies sent to the DVC remote.

    This is all that a fresh `git clone` of a workspace needs to serve and to train: `dvc pull` brings the data only.
    Where both copies changed the pointer, the remote's stands, and what was promoted here becomes its challenger.
    """
    from regraft.tasks.steps.push import pull as pull_all
    from regraft.tasks.workspace.locks import hold_lock

    home = open_workspace(workspace)
    with hold_lock(home, "make"):
        came, exchange = pull_all(home, every=every)
    roles = (f"{role} {getattr(exchange.pointer, role) or '-'}" for role in ("champion", "challenger", "previous"))
    lines = [f"{came} objects and {exchange.versions} versions came", *exchange.notes, ", ".join(roles)]
    answer({"objects": came} | exchange.to_json(), as_json, "\n".join(lines))


@app.command(epilog="Example: regraft clean --workspace W, then regraft clean --workspace W --apply")
def clean(
    workspace: WorkspaceOption = HERE,
    apply: Annotated[bool, typer.Option("--apply", help="Remove it. Without this, nothing is touched.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Also objects in the DVC remote that no kept version needs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what the workspace could do without and how much it is; with --apply, remove it.

    What stays is set in params.yaml under `retention`. Champion, challenger, previous, lineage, journal and labels that
    no version learned from always stay, and so does every object that a kept version is made of.
    """
    from regraft.tasks.retention.retention import apply_cleaning, plan_cleaning
    from regraft.tasks.settings.params import load_params
    from regraft.tasks.workspace.locks import hold_lock

    home = open_workspace(workspace)
    with hold_lock(home, "make"):
        pieces = plan_cleaning(home, load_params(home.params).retention, remote=remote)
        if apply:
            apply_cleaning(home, pieces)
    total = sum(piece.bytes for piece in pieces)
    lines = [f"{piece.bytes / 2**20:>10,.1f} MiB  {piece.count:>7} {piece.what}: {piece.why}" for piece in pieces]
    lines.append(f"{total / 2**20:>10,.1f} MiB  {'removed' if apply else 'could go; remove it with --apply'}")
    answer({"applied": apply, "bytes": total, "pieces": [p.to_json() for p in pieces]}, as_json, "\n".join(lines))


def _open_registry(home: Workspace) -> "Registry":
    from regraft.serving.registry.registry import (
        Registry,  # numpy and pydantic come with it, which help and a typo must not wait for
    )

    return Registry(home.models_store)


def _row(entry: "VersionEntry") -> dict[str, Any]:
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

"""Forks a process for each command line that it is sent, with the heavy imports already done.

A command of a test is a process of its own, as a user's is: own environment, folder, exit code and signals. Only the
six seconds of importing that every one of them begins with are spent once. Prefect is not among what is imported: a
command says where Prefect's files lie before it imports it. What a start itself costs, and what it imports, is tested
with the real console script (``test_answered_at_once.py``). One request a line on standard input, its exit code back.
"""

import importlib
import json
import os
import pkgutil
import sys
from typing import Any

HEAVY = ("regraft.models.compute.torchvision_gap", "torch", "timm", "dvc.repo", "great_expectations", "onnxruntime")
ROOMS = ("regraft.tasks.stages", "regraft.tasks.steps")


def run_command(request: dict[str, Any]) -> None:
    """Become the command that ``request`` describes; never returns."""
    for number, (name, mode) in enumerate(((os.devnull, "r"), (request["stdout"], "w"), (request["stderr"], "w"))):
        with open(name, mode) as file:  # noqa: PTH123 (a path is not imported for it)
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["command"]
    from regraft.flows.cli import main

    main()
    sys.exit(0)


def serve() -> None:
    """Answer requests until standard input ends."""
    import regraft.serving.silence  # noqa: F401

    rooms = [importlib.import_module(room) for room in ROOMS]
    tasks = [found.name for room in rooms for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")]
    for name in (*HEAVY, *tasks, "regraft.flows.cli"):
        importlib.import_module(name)
    assert "prefect" not in sys.modules
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            run_command(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

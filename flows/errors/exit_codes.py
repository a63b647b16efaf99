"""What an error means to the person who gave the command: an exit code and a message.

Each exception class of the project says in its attribute ``exit_code`` how it ends a command: 1 it could not be done,
2 bad input or usage, 3 a gate said no, 4 another run holds the lock; None if it is caught before anybody sees it. Its
message then says what happened and what to do. Anything else is a fault of ours. Nothing is imported to find out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from regraft.flows.errors.storage import explain_disk

ExitCode = Literal[1, 2, 3, 4]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command or a flow run ended that did not do what it was asked for."""

    code: ExitCode
    message: str
    fault: bool
    """True if the traceback is wanted, because the message alone helps nobody."""


def judge_error(error: BaseException) -> Outcome:
    """Return what ``error`` means; an error that was raised from a planned one means what that one means."""
    chain = list(_trace_causes(error))
    for one in chain:
        if code := getattr(one, "exit_code", None):
            return Outcome(code, str(one), fault=False)
    if (problem := explain_disk(chain)) is not None:
        return Outcome(1, problem, fault=False)
    for one in chain:
        if "DvcException" in {kind.__name__ for kind in type(one).__mro__}:
            advice = "Look at dvc.yaml, dvc.lock and .dvc/config of the workspace"
            return Outcome(1, f"DVC cannot go on: {one}. {advice}", fault=False)
    return Outcome(1, f"{type(error).__name__}: {error}", fault=True)


def _trace_causes(error: BaseException | None) -> Iterator[BaseException]:
    # Not __context__: a fault that happens while a planned error is handled is a fault still.
    while error is not None:
        yield error
        error = error.__cause__

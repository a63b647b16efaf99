"""What a flow run says of itself on a Prefect server: its name tells what happened, its state begins with the message.

Without a server a flow is a plain function and nothing here has any effect.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from regraft.flows.errors.exit_codes import judge_error
from regraft.flows.server.naming import name_result, name_stop
from regraft.tasks.graph.prefect_step import inside_flow_run, silence_planned_stops

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger(__name__)


def tell_outcome(function: Callable[P, R]) -> Callable[P, R]:
    """Make the body of a flow name its run after its outcome, and end a planned stop with its message alone.

    A planned stop (a gate said no, bad input, a full disk) becomes the state *Failed* with the message; who called the
    flow still gets the exception. A fault keeps its traceback in the log of the run.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        if not inside_flow_run():
            return function(*args, **kwargs)
        from prefect.states import Failed

        silence_planned_stops()
        flow = function.__name__
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            outcome = judge_error(error)
            _rename_run(name_stop(flow, outcome))
            if outcome.fault:
                raise
            return Failed(message=outcome.message, data=error)
        _rename_run(name_result(flow, result))
        return result

    return call


def _rename_run(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(context.flow_run.id, name=name)
    except Exception:
        # The work is done and recorded: what the list calls it must not undo that.
        logger.warning("the run could not be renamed to %r", name, exc_info=True)

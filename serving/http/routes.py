"""ASGI middleware that says what is wrong with a path or method in the form of every other refusal."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.serving.http.problems import ProblemError

ADVICE = "POST an image to /predict, a label to /feedback; GET /version, /readyz, /livez, /metrics, /"


class WrongDoor:
    """Turns the plain texts that frameworks answer with 404 and 405 into problems."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection event; see the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem: ProblemError | None = None

        async def send_in_form(message: Message) -> None:
            nonlocal problem
            if problem is not None:
                return  # the rest of the plain text
            if message["type"] == "http.response.start" and message["status"] in (404, 405):
                headers = dict(message["headers"])
                if headers.get(b"content-type", b"").startswith(b"text/plain"):
                    problem = _make_problem(scope, message["status"], headers.get(b"allow", b"").decode("latin-1"))
                    response = problem.to_response()
                    if b"allow" in headers:
                        response.headers["allow"] = headers[b"allow"].decode("latin-1")
                    await response(scope, receive, send)
                    return
            await send(message)

        await self.app(scope, receive, send_in_form)


def _make_problem(scope: Scope, status: int, allowed: str) -> ProblemError:
    if status == 404:
        return ProblemError(404, "unknown_path", f"there is no {scope['path'][:200]}", ADVICE)
    problem = f"{scope['path'][:200]} does not take {scope['method'][:20]}"
    return ProblemError(
        405, "wrong_method", problem, f"use {', '.join(sorted(allowed.split(', ')))}" if allowed else ADVICE
    )

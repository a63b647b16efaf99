"""The BentoML service: predict, feedback, version, and a page for people. Start it with ``serving.process.process`` or
``REGRAFT_WORKSPACE=DIR bentoml serve regraft.serving.endpoint.service:Regraft``.
"""

import os
from pathlib import Path

import bentoml
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from regraft.serving import silence  # noqa: F401
from regraft.serving.endpoint.engine import Answer, Engine, FeedbackReceipt
from regraft.serving.endpoint.settings import ServiceSettings
from regraft.serving.http.deadlines import HEADERS_S, be_patient_no_longer
from regraft.serving.http.limits import BodyLimits
from regraft.serving.http.page import render_page
from regraft.serving.http.problems import ProblemError
from regraft.serving.http.routes import WrongDoor
from regraft.serving.process.leash import hold_worker

SETTINGS = ServiceSettings()
be_patient_no_longer(min(HEADERS_S, SETTINGS.body_timeout_s))


def current_engine() -> Engine:
    """Return the engine of the service in this process."""
    return bentoml.get_current_service().engine


async def show_version(request: Request) -> Response:
    """Answer ``GET /version``."""
    return JSONResponse(current_engine().describe())


async def show_page(request: Request) -> Response:
    """Answer ``GET /``."""
    return render_page()


site = Starlette(routes=[Route("/", show_page), Route("/version", show_version)])


@bentoml.asgi_app(site, path="/")
@bentoml.service(
    name="regraft",
    workers=1,  # one model in memory, one writer of the log
    traffic={"timeout": 30},
    http={"host": "127.0.0.1", "cors": {"enabled": False}},
    logging={"access": {"enabled": False}},  # the prediction log and /metrics say more
)
class Regraft:
    """Classifies images with the champion of a workspace's registry."""

    def __init__(self) -> None:
        hold_worker()
        self.engine = Engine(SETTINGS)
        self.engine.start()

    @bentoml.api(route="/predict")
    async def predict(self, image: Path) -> Answer:
        """Name what an image file shows."""
        try:
            return await self.engine.predict(image)
        except ProblemError as exc:
            return self._refuse(exc)

    @bentoml.api(route="/feedback")
    async def feedback(self, id: str, label: str) -> FeedbackReceipt:
        """Keep the right label of an earlier answer."""
        try:
            return await self.engine.take_feedback(id, label)
        except ProblemError as exc:
            return self._refuse(exc)

    def _refuse(self, problem: ProblemError) -> Response:
        self.engine.counters.count_refusal(problem.code)
        return problem.to_response()  # BentoML passes a ready response through as it is

    async def __is_ready__(self) -> bool:
        """Say no with the reason: a plain False would hide it."""
        reason = self.engine.find_unready()
        if reason is not None:
            raise HTTPException(503, detail=reason)
        return True

    @bentoml.on_shutdown
    def close(self) -> None:
        """Flush the log after the last request."""
        if not self.engine.close():
            os._exit(0)  # Python would wait for the decoder that is still at work


Regraft.add_asgi_middleware(
    BodyLimits,
    max_body_bytes=SETTINGS.max_body_bytes,
    max_in_flight=SETTINGS.max_in_flight,
    body_timeout_s=SETTINGS.body_timeout_s,
    on_refusal=lambda code: current_engine().counters.count_refusal(code),
)
Regraft.add_asgi_middleware(WrongDoor)

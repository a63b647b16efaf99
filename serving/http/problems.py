"""The one shape in which the service says no: a status, a code for programs, what is wrong and what to do about it."""

from starlette.responses import JSONResponse

from regraft.serving.decoding.preprocess import ImageError

IMAGE_STATUS = {
    "empty": 422,
    "undecodable": 422,
    "out_of_range": 422,
    "too_costly": 422,
    "unsupported": 415,
    "too_large": 413,
}


class ProblemError(Exception):
    """A request that is answered with ``status`` and one JSON object."""

    exit_code = None

    def __init__(
        self, status: int, code: str, error: str, advice: str, *, retry_after_s: int | None = None, **details: object
    ) -> None:
        super().__init__(f"{error}; {advice}")
        self.status, self.code, self.error, self.advice = status, code, error, advice
        self.retry_after_s, self.details = retry_after_s, details

    @classmethod
    def of_image(cls, exc: ImageError) -> "ProblemError":
        """Return the problem that an unreadable image is."""
        return cls(IMAGE_STATUS[exc.code], exc.code, exc.problem, exc.advice)

    def to_response(self) -> JSONResponse:
        """Return the answer for the client."""
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        return JSONResponse(self.to_json(), self.status, headers)

    def to_json(self) -> dict[str, object]:
        """Return what is wrong and what to do about it."""
        return {"error": self.error, "code": self.code, "advice": self.advice} | self.details

"""The service's own metrics, beside BentoML's on ``/metrics``.

prometheus_client is imported late: a BentoML worker names the folder of its metrics after it imported the service.
"""

from regraft.serving.endpoint.slots import SlotState


class Counters:
    """Counts answers, labels, refusals and swaps; make one per process."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._answers = Counter("regraft_answers", "Logged answers", ["version", "label"])
        self._seconds = Histogram("regraft_answer_seconds", "From admitted upload to logged answer, in seconds")
        self._feedback = Counter("regraft_feedback", "Labels that came back", ["version", "agrees"])
        self._refused = Counter("regraft_refused_requests", "Requests answered with a problem", ["code"])
        self._lost_images = Counter("regraft_lost_images", "Images that could not be kept")
        self._swaps = Counter("regraft_swaps", "Versions put to work", ["version"])
        self._refused_bundles = Counter("regraft_refused_bundles", "Champions that were not put to work", ["version"])
        self._seq = Gauge("regraft_pointer_seq", "The pointer's seq that answers", multiprocess_mode="livemax")
        self._is_refusing = Gauge("regraft_refusing", "1 while a champion is refused", multiprocess_mode="livemax")

    def count_answer(self, version: str, label: str, seconds: float) -> None:
        """Count one logged answer."""
        self._answers.labels(version, label).inc()
        self._seconds.observe(seconds)

    def count_feedback(self, version: str, *, agrees: bool) -> None:
        """Count one label that came back."""
        self._feedback.labels(version, str(agrees).lower()).inc()

    def count_refusal(self, code: str) -> None:
        """Count one request that was answered with a problem."""
        self._refused.labels(code).inc()

    def count_lost_image(self) -> None:
        """Count one image that the disk did not take."""
        self._lost_images.inc()

    def note_slot(self, state: SlotState) -> None:
        """Count a swap or a refused bundle."""
        self._seq.set(state.seq)
        self._is_refusing.set(0 if state.refusal is None else 1)
        if state.refusal is not None:
            self._refused_bundles.labels(state.refusal.version).inc()
        elif state.handle is not None:
            self._swaps.labels(state.handle.info.version).inc()

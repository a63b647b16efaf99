"""A simulated plant for the demo: its line makes images, a camera client sends them, an inspector knows the truth."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import numpy as np

from regraft.data.synthetic.steel import LABELS, SteelLine, encode_image, render_image

PAUSE_S = 0.1
"""Between two looks at the endpoint."""
FIRST_SEED = 1_000_000
"""Production images are rendered with seeds far from those of the training folder."""
TRAFFIC_SEED = 2_000_000
"""Background traffic has its own: how much of it there is must not decide which images are sent beside it."""


class PlantError(RuntimeError):
    """The endpoint will not answer with the version that is waited for; the message says why."""

    exit_code = 1


@dataclass
class Plant:
    """One line and the endpoint that looks at its strip."""

    endpoint: str
    line: SteelLine = field(default_factory=SteelLine.default)
    seed: int = FIRST_SEED
    truth: dict[str, str] = field(default_factory=dict)
    """The inspector's label of each prediction id."""
    is_running: Callable[[], bool] = lambda: True
    """Whether the process of the endpoint lives; nothing waits for one that has ended."""
    _asking: threading.Lock = field(default_factory=threading.Lock)
    """Held from a request to the note of its truth: the watch may ask for any image that the endpoint has logged."""

    def send(self, per_class: int) -> float:
        """Send ``per_class`` new images of each class and return the share that was named rightly."""
        labels = [label for _ in range(per_class) for label in LABELS]
        seeds = range(self.seed + 1, self.seed + 1 + len(labels))
        self.seed += len(labels)
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            named = [self._ask(client, label, seed) for label, seed in zip(labels, seeds, strict=True)]
        return float(np.mean([name == label for name, label in zip(named, labels, strict=True)]))

    def inspect(self, queue: list[dict[str, str]]) -> int:
        """Answer a labelling queue through the feedback endpoint; return how many labels went in."""
        with self._asking:
            answers = [{"id": wanted["id"], "label": self.truth[wanted["id"]]} for wanted in queue]
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            for answer in answers:
                client.post("/feedback", json=answer).raise_for_status()
        return len(answers)

    def await_version(self, version: str) -> str:
        """Return ``version`` once it answers; as long as the endpoint lives it is waited for.

        Raises:
            PlantError: If the endpoint ended, or refused that version.
        """
        while True:
            if not self.is_running():
                raise PlantError(f"the endpoint {self.endpoint} ended before {version} answered")
            with suppress(httpx.HTTPError):
                about = httpx.get(f"{self.endpoint}/version", timeout=10, trust_env=False).json()
                if about["version"] == version and about["ready"]:
                    return version
                refused = about.get("refused", {})
                if refused.get("version") == version:
                    raise PlantError(f"the endpoint refused {version}: {refused['reason']}")
            time.sleep(PAUSE_S)

    def await_traffic(self, counts: dict[str, int], more: int = 2) -> None:
        """Return once ``traffic`` has sent ``more`` requests."""
        wanted = counts["requests"] + more
        while counts["requests"] < wanted and self.is_running():
            time.sleep(PAUSE_S)

    @contextmanager
    def traffic(self, pause_s: float = 0.5) -> Iterator[dict[str, int]]:
        """Send one new image after the other in the background; yields running counts of requests and failures."""
        counts = {"requests": 0, "failed": 0}
        ended = threading.Event()
        thread = threading.Thread(target=self._drip, args=(counts, ended, pause_s), daemon=True)
        thread.start()
        try:
            yield counts
        finally:
            ended.set()
            thread.join(30)

    def _drip(self, counts: dict[str, int], ended: threading.Event, pause_s: float) -> None:
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            for seed, label in enumerate(itertools.cycle(LABELS), TRAFFIC_SEED):
                if ended.wait(pause_s):
                    return
                counts["requests"] += 1
                try:
                    self._ask(client, label, seed)
                except httpx.HTTPError:
                    counts["failed"] += 1

    def _ask(self, client: httpx.Client, label: str, seed: int) -> str:
        """Photograph a strip with the defect ``label``, send it, and return the class that the answer names."""
        image = encode_image(render_image(self.line, label, seed), self.line)
        with self._asking:
            reply = client.post("/predict", files={"image": ("strip.jpg", image, "image/jpeg")}).raise_for_status()
            answer = reply.json()
            self.truth[answer["id"]] = label
        return answer["label"]

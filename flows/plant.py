"""A simulated plant for the demo: its line makes images, a camera client sends them, an inspector knows the truth."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from data.steel import LABELS, SteelLine, encode_image, render_image

FIRST_SEED = 1_000_000
"""Production images are rendered with seeds far from those of the training folder."""


@dataclass
class Plant:
    """One line and the endpoint that looks at its strip."""

    endpoint: str
    line: SteelLine
    seed: int = FIRST_SEED
    truth: dict[str, str] = field(default_factory=dict)
    """The inspector's label of each prediction id."""

    def send(self, per_class: int) -> float:
        """Send ``per_class`` new images of each class and return the share that was named rightly."""
        labels = [label for _ in range(per_class) for label in LABELS]
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            replies = [_post(client, self.photograph(label)) for label in labels]
        for label, reply in zip(labels, replies, strict=True):
            self.truth[reply["id"]] = label
        return float(np.mean([reply["label"] == label for label, reply in zip(labels, replies, strict=True)]))

    def photograph(self, label: str) -> bytes:
        """Return the encoded bytes of one new image of the line."""
        self.seed += 1
        return encode_image(render_image(self.line, label, self.seed), self.line)

    def inspect(self, queue: list[dict[str, str]]) -> int:
        """Answer a labelling queue through the feedback endpoint; return how many labels went in."""
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            for wanted in queue:
                client.post(
                    "/feedback", json={"id": wanted["id"], "label": self.truth[wanted["id"]]}
                ).raise_for_status()
        return len(queue)

    def read_version(self) -> str:
        """Return the version that answers."""
        return str(httpx.get(f"{self.endpoint}/version", timeout=10).json()["version"])

    @contextmanager
    def traffic(self, pause_s: float = 0.5) -> Iterator[dict[str, int]]:
        """Send one image after the other in the background; yields running counts of requests and failures."""
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
        shot = self.photograph(LABELS[0])
        with httpx.Client(base_url=self.endpoint, timeout=30) as client:
            while not ended.wait(pause_s):
                counts["requests"] += 1
                try:
                    _post(client, shot)
                except httpx.HTTPError:
                    counts["failed"] += 1


def _post(client: httpx.Client, image: bytes) -> dict[str, Any]:
    reply = client.post("/predict", files={"image": ("strip.jpg", image, "image/jpeg")})
    reply.raise_for_status()
    return reply.json()

"""The models a service holds, following the registry's pointer: load beside the running one, prove it, then swap."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from regraft.serving.bundle.format import BundleError, open_bundle
from regraft.serving.bundle.runtime import ModelHandle
from regraft.serving.registry.registry import Pointer, Registry, RegistryError

logger = logging.getLogger(__name__)

POLL_S = 0.2
RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class RefusedVersion:
    """A champion that was not put to work, and why; ``at`` is the monotonic time in seconds."""

    version: str
    seq: int
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class SlotState:
    """What answers now: the model, the pointer's ``seq`` when it was put to work, and a refused successor if any."""

    handle: ModelHandle | None = None
    seq: int = 0
    refusal: RefusedVersion | None = None


class Slots:
    """Follows one registry in a thread; ``state`` is replaced in one assignment, so readers never see a mix."""

    def __init__(
        self,
        models_store: Path,
        *,
        threads: int | None = None,
        poll_s: float = POLL_S,
        on_change: Callable[[SlotState], None] | None = None,
    ) -> None:
        self.state = SlotState()
        self._registry = Registry(models_store)
        self._threads, self._poll_s, self._on_change = threads, poll_s, on_change
        self._spare: ModelHandle | None = None  # what answered before: a rollback needs no loading
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="slots", daemon=True)

    def start(self) -> None:
        """Load the champion, if there is one, and follow the pointer from then on."""
        self.poll()
        self._thread.start()

    def stop(self) -> None:
        """Stop following; the current model keeps answering."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Reads as a claim: the pointer is being followed."""
        return self._thread.is_alive()

    @property
    def handle(self) -> ModelHandle | None:
        """The model that answers now; take it once per request."""
        return self.state.handle

    def poll(self) -> None:
        """Look at the pointer once and do what it says; a faulty bundle or pointer is refused, the old model stays."""
        try:
            pointer = self._registry.pointer()
        except RegistryError as exc:
            self._refuse(Pointer(champion="pointer.json", seq=self.state.seq), str(exc))
            return
        running = self.state.handle.info.version if self.state.handle else None
        if pointer.champion is None or (pointer.champion == running and self._is_current(pointer)):
            return
        if not self._was_refused(pointer):
            self._load(pointer)

    def _is_current(self, pointer: Pointer) -> bool:
        return self.state.seq == pointer.seq and self.state.refusal is None

    def _was_refused(self, pointer: Pointer) -> bool:
        refusal = self.state.refusal
        if refusal is None or (refusal.version, refusal.seq) != (pointer.champion, pointer.seq):
            return False
        return time.monotonic() - refusal.at < RETRY_S  # the folder may still have been mended, or memory freed

    def _load(self, pointer: Pointer) -> None:
        started = time.monotonic()
        try:
            handle = self._open(pointer.champion)
        except (BundleError, OSError, MemoryError) as exc:
            self._refuse(pointer, str(exc))
            return
        if handle is not self.state.handle:
            self._spare = self.state.handle
        self._set(SlotState(handle, pointer.seq))
        seconds = time.monotonic() - started
        logger.info("swapped version=%s seq=%d seconds=%.3f", handle.info.version, pointer.seq, seconds)

    def _open(self, version: str) -> ModelHandle:
        """Return the model of a version whose files have just been read and hashed, also if it is still in memory.

        What is not on the disk as it was sealed could not be loaded after a restart.
        """
        folder = self._registry.path(version)
        for handle in (self.state.handle, self._spare):
            if handle is not None and handle.info.version == version:
                found = open_bundle(folder).info.version
                break
        else:
            handle = ModelHandle.open(folder, self._threads)
            found = handle.info.version
        if found != version:
            raise BundleError(folder, [f"the folder holds {found}"])
        return handle

    def _refuse(self, pointer: Pointer, reason: str) -> None:
        known = self.state.refusal
        refusal = RefusedVersion(pointer.champion, pointer.seq, reason, time.monotonic())
        state = SlotState(self.state.handle, self.state.seq, refusal)
        if known is not None and (known.version, known.seq, known.reason) == (refusal.version, refusal.seq, reason):
            self.state = state  # the same once more: not news
            return
        logger.error("refused version=%s seq=%d: %s", pointer.champion, pointer.seq, reason)
        self._set(state)

    def _set(self, state: SlotState) -> None:
        self.state = state
        if self._on_change is not None:
            self._on_change(state)

    def _follow(self) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                self.poll()
            except Exception:  # the follower must outlive anything, or promotions would silently stop
                logger.exception("the registry could not be followed; trying again")

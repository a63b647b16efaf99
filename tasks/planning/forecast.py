"""What ``regraft train`` will take, told before it starts.

Nothing here may stop a run: what cannot be forecast is said in words.
"""

import itertools
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from regraft.data.dataset.read_image import read_entry
from regraft.data.sources.entries import Entry
from regraft.data.sources.layout import Layout
from regraft.data.sources.sources import list_source, read_intake
from regraft.models.certificate.config import FEWEST_DRAWS
from regraft.models.compute.budget import NOMINAL_SPEEDS, Speed
from regraft.models.compute.calibration import measure_speed
from regraft.models.compute.cost import GroupWork
from regraft.models.compute.device import choose_device
from regraft.models.compute.forecast import (
    FORECAST_STEPS,
    PASS_SHARE,
    Forecast,
    ForecastStep,
    Job,
    forecast_run,
)
from regraft.models.heads.head_views import count_head_views
from regraft.models.selection.result import SelectConfig
from regraft.models.selection.successive_halving import MOST_CANDIDATES, list_rounds
from regraft.models.views.shifts import SHIFTS
from regraft.serving.decoding.preprocess import ImageError, PreprocessSpec, load_input
from regraft.tasks.graph.graph import list_stages
from regraft.tasks.planning.candidate_work import count_candidates
from regraft.tasks.planning.pending import count_test_images, list_pending
from regraft.tasks.settings.params import Params, load_params
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)
Found = TypeVar("Found")

SAMPLED = 20
"""Images that are decoded to learn how long one takes."""
SAMPLE_S = 1.0
"""Seconds after which no further image is decoded."""
DEFAULT_SIDE_PX = 224


def forecast_training(home: Workspace, data: Path | None) -> Forecast:
    """Return what a run on ``data`` (by default the known images) takes, and log it; never raises."""
    return tell(Basis(home, data).forecast())


def tell(told: Forecast) -> Forecast:
    """Log the forecast and return it."""
    logger.info("forecast: %s", told.describe())
    return told


class Basis:
    """Everything that a forecast is made from, gathered once."""

    def __init__(self, home: Workspace, data: Path | None) -> None:
        self.home, self.notes = home, list[str]()
        self.params = load_params(home.params)
        listed = self._try("the images could not be listed", lambda: self._list(data))
        self._entries, self._known = listed or ([], False)
        self._todo = self._try("what is done already could not be asked", self._ask) if self._known else None
        self._speed: Speed | None = None
        self._work: tuple[tuple[GroupWork, ...], ...] = ()
        self._specs: list[PreprocessSpec] = []
        self._times: tuple[float | None, float | None] = (None, None)
        if self._entries and self._todo != ():
            self._look_closer()

    def _look_closer(self) -> None:
        self._speed = self._try("the machine could not be measured", self._measure)
        counted = self._try("no candidate could be counted", lambda: count_candidates(self.home, self.params.select))
        if counted is not None:
            self._work, self._specs = counted.work, counted.specs
            self.notes += counted.notes
        self._times = self._try("the images could not be timed", self._time) or (None, None)
        if self._speed is not None:  # another program's busy moment is not this machine's speed
            again = self._try("the machine could not be measured again", self._measure) or self._speed
            self._speed = Speed(max(self._speed.gflops, again.gflops), max(self._speed.gigabytes, again.gigabytes))

    def forecast(self) -> Forecast:
        """Return the forecast under the present parameters."""
        if self._todo == ():
            # The gate is no stage: it looks again on every run.
            again = self._try("the test images could not be counted", lambda: count_test_images(self.home))
            notes = (*self.notes, *([f"the gate asks about {again} test images once more"] if again else []))
            return Forecast(dict.fromkeys(FORECAST_STEPS, 0.0), 0.0, 0.0, notes)
        return self._forecast(FORECAST_STEPS if self._todo is None else self._todo)

    def _forecast(self, todo: Collection[ForecastStep]) -> Forecast:
        if not self._entries or self._speed is None:
            return Forecast(dict.fromkeys(FORECAST_STEPS), None, None, tuple(self.notes))
        return forecast_run(self._job(), self._speed, self._nominal(), todo=todo, notes=tuple(self.notes))

    def after(self, params: Params, changed: Collection[str]) -> Forecast:
        """Return the forecast under ``params``, of which ``changed`` are new: what they decide is to do again."""
        self.params = params
        if changed and self._todo is not None:
            self._todo = FORECAST_STEPS[FORECAST_STEPS.index("finetune") :] if not self._todo else self._todo
        return self.forecast()

    def foresee(self, params: Params) -> Forecast:
        """Return what a run under ``params`` would take if nothing were done yet."""
        if self._todo == () and self._speed is None:
            self._look_closer()
        present, self.params = self.params, params
        try:
            return self._forecast(FORECAST_STEPS)
        finally:
            self.params = present

    def measure(self, params: Params) -> tuple[Job, Speed, Speed] | None:
        """Return the job under ``params``, this machine's speed and the nominal one; None if it was not measured."""
        present, self.params = self.params, params
        try:
            return None if self._speed is None else (self._job(), self._speed, self._nominal())
        finally:
            self.params = present

    @property
    def finished(self) -> bool:
        """Say whether no stage is left to run."""
        return self._todo == ()

    def _try(self, problem: str, ask: Callable[[], Found]) -> Found | None:
        """Return what ``ask`` returns, or None with a note: a forecast that fails must not fail the run."""
        try:
            return ask()
        except Exception as error:
            logger.debug("forecast incomplete problem=%s", problem, exc_info=True)
            self.notes.append(f"{problem} ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
            return None

    def _nominal(self) -> Speed:
        tuning = self.params.finetune
        nominal = NOMINAL_SPEEDS[choose_device(tuning.device).type]
        return Speed(tuning.nominal_gflops or nominal.gflops, tuning.nominal_gigabytes or nominal.gigabytes)

    def _measure(self) -> Speed:
        return measure_speed(self.params.finetune.threads, self.params.finetune.device)

    def _list(self, data: Path | None) -> tuple[list[Entry], bool]:
        """Return all listed files, and whether they are those that the workspace knows already."""
        sources = read_intake(self.home.intake) if self.home.intake.exists() else []
        known = {source.path: source.layout for source in sources}
        wanted = data.expanduser().resolve() if data else None
        read = known if wanted is None or wanted in known else {wanted: Layout()}
        return [entry for path, layout in read.items() for entry in list_source(path, layout).entries], read is known

    def _ask(self) -> tuple[ForecastStep, ...]:
        """Return the parts that are to be done."""
        owners, pending = {"decode": "ingest"}, list_pending(self.home)
        return tuple(part for part in FORECAST_STEPS if owners.get(part, part) in pending)

    def _time(self) -> tuple[float, float]:
        """Return seconds to open and measure a file, and seconds to a square, from a spread sample."""
        limits, spec = self.params.ingest, self._spec
        step = max(1, len(self._entries) // SAMPLED)
        read, squared, began = [], [], time.perf_counter()
        for entry in itertools.islice(self._entries[::step], SAMPLED):
            started = time.perf_counter()
            _, image = read_entry(entry, max_bytes=limits.max_bytes, max_pixels=limits.max_pixels)
            opened = time.perf_counter()
            read.append(opened - started)
            try:
                load_input(image, spec, max_pixels=limits.max_pixels, clip=True)
            except ImageError:
                continue  # ingest will say so
            squared.append(time.perf_counter() - opened)
            if time.perf_counter() - began > SAMPLE_S:
                break
        return sum(read) / len(read), sum(squared) / len(squared)

    @property
    def _spec(self) -> PreprocessSpec:
        fallback = PreprocessSpec(size_px=DEFAULT_SIDE_PX, fit="squash", interpolation="bicubic")
        return max(self._specs, key=lambda spec: spec.size_px, default=fallback)

    def _job(self) -> Job:
        files, shares = len(self._entries), self.params.split.shares
        tuning, select = self.params.finetune, self.params.select
        train, held, test = (round(files * shares[part]) for part in ("train", "validation", "test"))
        return Job(
            files=files,
            train=train,
            validation=held,
            test=test,
            side_px=self._spec.size_px,
            candidates=self._work,
            sample=min(select.max_images, train),
            read_s=self._times[0],
            square_s=self._times[1],
            budget_s=min(tuning.budget_s, tuning.image_s * train),
            stop_s=tuning.stop_s or float("inf"),
            max_epochs=tuning.max_epochs,
            halving_s=_halving_s(select, len(self._work), min(select.max_images, train)),
            certify_s=_certify_s(self.params) if "certify" in list_stages(self.home) else 0.0,
            certify_least_s=FEWEST_DRAWS * self.params.certify.trial_s * self.params.certify.scratch_factor,
            pass_share=PASS_SHARE if choose_device(tuning.device).type == "cpu" else 1.0,
            views=count_head_views(tuning.head, train + held),
            batch_size=tuning.batch_size,
            squares=max(1, len(self._specs)),
            shifted=len(SHIFTS) * min(self.params.evaluate.shift_images, test),
        )


def _halving_s(select: SelectConfig, candidates: int, images: int) -> float:
    """Return the nominal seconds of successive halving if it goes all the way."""
    rounds = list_rounds(min(candidates, MOST_CANDIDATES), select.count_rounds(images))
    return select.halving_budget_s * sum(times * left for times, left in rounds)


def _certify_s(params: Params) -> float:
    """Return the nominal seconds of the certificate's trainings at most: with and without the weights, every draw."""
    certify = params.certify
    return certify.draws * sum(certify.sizes) * certify.trial_s * (1 + certify.scratch_factor)

"""What ``regraft train`` will take, told before it starts, and a budget that makes it end in time.

Nothing here may stop a run: what cannot be forecast is said in words.
"""

import itertools
import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import torch

from regraft.data.dataset.read_image import read_entry
from regraft.data.sources.entries import Entry
from regraft.data.sources.layout import Layout
from regraft.data.sources.sources import list_source, read_intake
from regraft.models.backbones.hub import embedded_folder, is_address, list_backbones
from regraft.models.backbones.network import build_architecture, read_config, read_input
from regraft.models.certificate.config import FEWEST_DRAWS
from regraft.models.compute.budget import NOMINAL_SPEEDS, Speed
from regraft.models.compute.calibration import measure_speed
from regraft.models.compute.cost import GroupWork, count_work, group_by_depth
from regraft.models.compute.device import choose_device
from regraft.models.compute.forecast import (
    FINETUNE_FACTOR,
    FORECAST_STEPS,
    PASS_SHARE,
    Forecast,
    ForecastStep,
    Job,
    forecast_run,
    prepare_s,
    say_seconds,
    slowness,
)
from regraft.models.selection.candidates import describe_preprocess
from regraft.models.selection.result import SelectConfig
from regraft.models.selection.successive_halving import MOST_CANDIDATES, list_rounds
from regraft.models.views.shifts import SHIFTS
from regraft.serving.decoding.preprocess import ImageError, PreprocessSpec, load_input
from regraft.tasks.graph.graph import list_stages
from regraft.tasks.planning.pending import count_test_images, list_pending
from regraft.tasks.settings.params import Params, load_params
from regraft.tasks.settings.terms import amend_terms
from regraft.tasks.workspace.workspace import Workspace

logger = logging.getLogger(__name__)
Found = TypeVar("Found")

SAMPLED = 20
"""Images that are decoded to learn how long one takes."""
SAMPLE_S = 1.0
"""Seconds after which no further image is decoded."""
MARGIN = 0.9
"""Share of a time budget that is planned for; the rest is for what the forecast did not see."""
LEAST_S = 1.0
"""Of fine-tuning, where a time budget leaves nothing: the linear probe is kept."""
NEAR, DONE = (0.7, 1.1), (0.5, float("inf"))
"""A budget in the file that is this share of a new one stays, or a second run would train again for a trifle; the
second where nothing is left to do."""
DEFAULT_SIDE_PX = 224


def forecast_training(home: Workspace, data: Path | None, budget_s: float | None = None) -> Forecast:
    """Return what a run on ``data`` (by default the known images) takes, and log it; without a budget never raises."""
    if budget_s is not None:
        return fit_into(home, data, budget_s)
    return _tell(_Basis(home, data).forecast())


def fit_into(home: Workspace, data: Path | None, budget_s: float) -> Forecast:
    """Set the budget of fine-tuning so that a run ends within ``budget_s`` on the clock; return and log its forecast.

    Raises:
        ParamsError: If params.yaml cannot be read or written.
    """
    basis = _Basis(home, data)
    changed = basis.fit(budget_s)
    amend_terms(home, changed)
    told = basis.after(load_params(home.params), changed)
    if changed:
        stands = ", ".join(f"{name}={value:g}" for name, value in changed.items())
        told = told.note(f"{stands} now stand in {home.params.name}, also for later runs")
    if told.total_s <= budget_s:
        return _tell(told)
    longest = max(told.seconds, key=lambda part: told.seconds[part] or 0.0)
    advice = "; --set select.halving_rounds=0 leaves fine-tuning out of it" if basis.halves else ""
    return _tell(
        told.note(
            f"the budget of {budget_s:g} s is too short even without fine-tuning: {longest} alone takes about "
            f"{say_seconds(told.seconds[longest] or 0.0)}{advice}"
        )
    )


def _tell(told: Forecast) -> Forecast:
    logger.info("forecast: %s", told.describe())
    return told


class _Basis:
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
        self._work, self._specs = self._try("no candidate could be counted", self._count) or ((), [])
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

    @property
    def halves(self) -> bool:
        """Say whether candidates will be fine-tuned against each other."""
        return self._job().halving_s > 0

    def after(self, params: Params, changed: Collection[str]) -> Forecast:
        """Return the forecast under ``params``, of which ``changed`` are new: what they decide is to do again."""
        self.params = params
        if changed and self._todo is not None:
            self._todo = FORECAST_STEPS[FORECAST_STEPS.index("finetune") :] if not self._todo else self._todo
        return self.forecast()

    def fit(self, budget_s: float) -> dict[str, float]:
        """Return the parameters with which fine-tuning ends when ``budget_s`` of the whole run are over."""
        if self._todo == ():
            self._look_closer()
        tuning, done = self.params.finetune, self._todo == ()
        # As if nothing were done yet: the same budget then means the same parameters.
        told = self._forecast(FORECAST_STEPS)
        rest = sum(value or 0.0 for part, value in told.seconds.items() if part != "finetune")
        left = max(LEAST_S, MARGIN * budget_s - rest)
        if told.seconds["finetune"] is None or self._speed is None:
            return {"finetune.stop_s": round(left, 1)}
        job = self._job()
        stop = max(LEAST_S, left - FINETUNE_FACTOR * prepare_s(job, self._speed))
        counted = max(LEAST_S, left / FINETUNE_FACTOR / slowness(job, self._speed, self._nominal()))
        if stop == LEAST_S:  # the clock ends it at once: what this moment's speed would allow is no reason for change
            counted = LEAST_S
        low, high = DONE if done else NEAR
        in_time = low * stop <= (tuning.stop_s or float("inf")) <= high * stop
        # Of counted work a wider range stays: the clock ends it in time, and a speed measured twice differs.
        if in_time and 0.5 * counted <= tuning.budget_s <= max(high, 2.0) * counted:
            return {}
        return {"finetune.budget_s": round(counted, 1), "finetune.stop_s": round(stop, 1)}

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

    def _count(self) -> tuple[tuple[tuple[GroupWork, ...], ...], list[PreprocessSpec]]:
        """Return the counted work of the candidates at hand, and their different preprocessings."""
        counted, specs = [], dict[str, PreprocessSpec]()
        absent = []
        for name in self._names():
            folder = next((place / name for place in self._places() if (place / name / "config.json").is_file()), None)
            if folder is None:
                absent.append(name)
                continue
            wanted = read_input(folder)
            spec = describe_preprocess(wanted, "squash")
            specs[spec.sha256] = spec
            counted.append(_count_candidate(folder, wanted.size_px))
        if absent:
            self.notes.append(f"not counted, for they are not here yet: {', '.join(absent)}")
        if not counted:
            raise ValueError("none is on this machine yet")
        return tuple(counted), list(specs.values())

    def _names(self) -> list[str]:
        select = self.params.select
        if select.candidates != "auto":
            return list(select.candidates)
        remote = select.mirror is not None and is_address(select.mirror)
        if remote:  # asking it could take longer than the forecast may
            self.notes.append("the candidates of the mirror are counted once they are here")
            here = [path.parent.name for path in self.home.backbones.glob("*/config.json")]
            return sorted({*list_backbones(None), *here})
        return list_backbones(select.mirror)

    def _places(self) -> list[Path]:
        mirror = self.params.select.mirror
        folder = [Path(mirror)] if mirror is not None and not is_address(mirror) else []
        return [self.home.backbones, *folder, embedded_folder()]

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
        train, test = round(files * shares["train"]), round(files * shares["test"])
        return Job(
            files=files,
            train=train,
            validation=round(files * shares["validation"]),
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
            batch_size=tuning.batch_size,
            squares=max(1, len(self._specs)),
            shifted=len(SHIFTS) * min(self.params.evaluate.shift_images, test),
        )


def _count_candidate(folder: Path, size_px: int) -> tuple[GroupWork, ...]:
    """Return the counted work of a backbone folder; nothing is computed and no weight is read."""
    with torch.device("meta"):
        network = build_architecture(read_config(folder)).eval()
    return tuple(count_work(network, group_by_depth(network), size_px))


def _halving_s(select: SelectConfig, candidates: int, images: int) -> float:
    """Return the nominal seconds of successive halving if it goes all the way."""
    rounds = list_rounds(min(candidates, MOST_CANDIDATES), select.count_rounds(images))
    return select.halving_budget_s * sum(times * left for times, left in rounds)


def _certify_s(params: Params) -> float:
    """Return the nominal seconds of the certificate's trainings at most: with and without the weights, every draw."""
    certify = params.certify
    return certify.draws * sum(certify.sizes) * certify.trial_s * (1 + certify.scratch_factor)

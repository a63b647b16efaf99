"""A time budget becomes parameters: what is worth least for its time is left out first, what is left is trained.

The order of ``CUTS`` and why it is that: decision 39.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from regraft.models.certificate.config import FEWEST_DRAWS
from regraft.models.compute.forecast import FINETUNE_FACTOR, Forecast, prepare_s, say_seconds, slowness
from regraft.serving.files.durable import write_json
from regraft.tasks.planning.forecast import Basis, tell
from regraft.tasks.settings.params import Params, load_params, preview_params
from regraft.tasks.settings.terms import amend_terms
from regraft.tasks.workspace.workspace import Workspace

MARGIN = 0.9
"""Share of a time budget that is planned for; the rest is for what the forecast did not see."""
LEAST_S = 1.0
"""Of fine-tuning, where a time budget leaves nothing: the linear probe is kept."""
NEAR, DONE = (0.7, 1.1), (0.5, float("inf"))
"""A budget in the file that is this share of a new one stays, or a second run would train again for a trifle; the
second where nothing is left to do."""

RESTORES = 0.5
"""Share of a budget into which a finished run must fit with what an earlier budget left out, for that to come back."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Something that a short budget leaves out: ``setting`` becomes ``value``, and ``lack`` is what is missing then."""

    setting: str
    value: Any
    lack: str


CUTS = (
    Cut("select.halving_rounds", 0, "backbones are compared by their probes alone"),
    Cut("certify.sizes", [1.0], "the certificate draws no learning curve"),
    Cut("certify.draws", FEWEST_DRAWS, "the certificate rests on two draws"),
    Cut("finetune.head.views", 2, "the head sees fewer other lamps and lenses"),
)
"""Least worth for its time first. Fine-tuning goes before any of them: on small sets it is seldom kept."""


def fit_into(home: Workspace, data: Path | None, budget_s: float) -> Forecast:
    """Set parameters so that a run ends within ``budget_s`` on the clock; return and log its forecast.

    What an earlier budget left out comes back where this one affords it; what a person has set stays.

    Raises:
        ParamsError: If params.yaml cannot be read or written.
    """
    basis, note = Basis(home, data), home.state / "time_budget.json"
    before = _read_cuts(note, load_params(home.params))
    full = {name: cut["was"] for name, cut in before.items()}
    # A finished run is not made again for a trifle: nothing more is left out of it, and what was comes back for much.
    if basis.finished:
        cuts = [cut for cut in choose_cuts(home, basis, RESTORES * budget_s, full) if cut.setting in before]
    else:
        cuts = choose_cuts(home, basis, budget_s, full)
    wanted = full | {cut.setting: cut.value for cut in cuts}
    wanted |= fit_training(basis, preview_params(home.params, wanted), budget_s)
    now = load_params(home.params)
    changed = {name: value for name, value in wanted.items() if _read(now, name) != value}
    whole = preview_params(home.params, full)
    left_out = {cut.setting: {"was": _read(whole, cut.setting), "now": cut.value} for cut in cuts}
    if before or left_out:
        write_json(note, before | left_out)  # first: a run killed in between finds what is ours
    amend_terms(home, changed)
    told = basis.after(load_params(home.params), changed)
    if changed:
        stands = ", ".join(f"{name}={_say(value)}" for name, value in changed.items())
        told = told.note(f"{stands} now stand in {home.params.name}, also for later runs")
    if cuts:
        told = told.note(f"left out for the budget: {'; '.join(cut.lack for cut in cuts)}")
    if told.total_s <= budget_s:
        return tell(told)
    longest = max(told.seconds, key=lambda part: told.seconds[part] or 0.0)
    return tell(
        told.note(
            f"the budget of {budget_s:g} s is too short even without fine-tuning: {longest} alone takes about "
            f"{say_seconds(told.seconds[longest] or 0.0)}"
        )
    )


def choose_cuts(home: Workspace, basis: Basis, budget_s: float, full: Mapping[str, Any]) -> list[Cut]:
    """Return what is left out: the first of ``CUTS``, as many as it takes for the rest to fit without fine-tuning."""
    cuts: list[Cut] = []
    for cut in CUTS:
        told = _foresee(home, basis, full, cuts)
        if told.total_s - told.spared.get("finetune", 0.0) <= MARGIN * budget_s:
            break
        if told.total_s - _foresee(home, basis, full, [*cuts, cut]).total_s > 0:
            cuts.append(cut)
    return cuts


def fit_training(basis: Basis, params: Params, budget_s: float) -> dict[str, float]:
    """Return the parameters with which fine-tuning ends when ``budget_s`` of the whole run under ``params`` are over.

    As if nothing were done yet: the same budget then means the same parameters.
    """
    tuning, told = params.finetune, basis.foresee(params)
    rest = sum(value or 0.0 for part, value in told.seconds.items() if part != "finetune")
    left = max(LEAST_S, MARGIN * budget_s - rest)
    measured = basis.measure(params)
    if told.seconds["finetune"] is None or measured is None:
        return {"finetune.stop_s": round(left, 1)}
    job, speed, nominal = measured
    stop = max(LEAST_S, left - prepare_s(job, speed))
    counted = max(LEAST_S, left / FINETUNE_FACTOR / slowness(job, speed, nominal))
    if stop == LEAST_S:  # the clock ends it at once: what this moment's speed would allow is no reason for change
        counted = LEAST_S
    low, high = DONE if basis.finished else NEAR
    in_time = low * stop <= (tuning.stop_s or float("inf")) <= high * stop
    affords = min(tuning.budget_s, tuning.image_s * job.train)
    # Of counted work a wider range stays: the clock ends it in time, and a speed measured twice differs.
    if in_time and 0.5 * counted <= affords <= max(high, 2.0) * counted:
        return {}
    image_s = max(tuning.image_s, round(counted / max(1, job.train) + 0.005, 2))  # who asks for more time wants it used
    return {"finetune.budget_s": round(counted, 1), "finetune.stop_s": round(stop, 1), "finetune.image_s": image_s}


def _foresee(home: Workspace, basis: Basis, full: Mapping[str, Any], cuts: list[Cut]) -> Forecast:
    return basis.foresee(preview_params(home.params, {**full, **{cut.setting: cut.value for cut in cuts}}))


def _read_cuts(note: Path, now: Params) -> dict[str, dict[str, Any]]:
    """Return what earlier budgets left out and nobody has changed since."""
    if not note.exists():
        return {}
    noted: dict[str, dict[str, Any]] = json.loads(note.read_text())
    return {name: cut for name, cut in noted.items() if _read(now, name) == cut["now"]}


def _read(params: Params, setting: str) -> Any:
    value = reduce(getattr, setting.split("."), params)
    return list(value) if isinstance(value, tuple) else value


def _say(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)

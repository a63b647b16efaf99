"""What the figures of the contest amount to: the rows of the ranking, the choice, and the regret of other choosers."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.preprocessing import scale

from regraft.models.selection.eligibility import Entry
from regraft.models.selection.ranking import mean_ranks
from regraft.models.selection.rating import Rating
from regraft.models.selection.result import Candidate, Rival, SelectConfig
from regraft.models.selection.successive_halving import SEATS, Lap
from regraft.models.statistics.intervals import draw_weights, hold_together, percentile_interval

RESAMPLES = 2000


def describe_candidate(
    entry: Entry,
    rating: Rating,
    codes: np.ndarray,
    rank: float,
    chance: float,
    prior: float | None,
    record: float | None,
    laps: Sequence[Lap],
) -> Candidate:
    """Return the row of the ranking."""
    score, low, high = rating.interval(codes)
    raced = [lap.accuracy for lap in laps if lap.name == entry.backbone.name]
    return Candidate(
        name=entry.backbone.name,
        score=score,
        low=low,
        high=high,
        standard_error=rating.standard_error(codes),
        rank=rank,
        chance=chance,
        loss=min(rating.probe.losses.values()),
        merit=float(rating.merit(codes).mean()),
        **rating.scores.to_figures(),
        prior=prior,
        record=record,
        raced=raced[-1] if raced else None,
        gflops=entry.gflops,
        nominal_ms=entry.nominal_ms,
        latency_ms=entry.latency_ms,
        parameters=entry.parameters,
        licence=entry.backbone.licence,
        sha256=entry.backbone.sha256,
        source=entry.backbone.source,
        strength=rating.probe.strength,
        adapt_images=rating.adapt_images,
        preprocess=rating.spec,
    )


def list_columns(
    ratings: Mapping[str, Rating], prior: Mapping[str, float], record: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """Return the columns that the ranks are averaged over; greater is better in each."""
    figures = {name: rating.scores.to_figures() for name, rating in ratings.items()}
    scores = next(iter(figures.values()), {})
    return {
        "prior": {name: prior.get(name) for name in ratings},
        "record": {name: record.get(name) for name in ratings},
        **{score: {name: one[score] for name, one in figures.items()} for score in scores},
        "probe": {name: -min(rating.probe.losses.values()) for name, rating in ratings.items()},
    }


def decide(
    ranking: Sequence[Candidate], laps: Sequence[Lap], merits: Mapping[str, np.ndarray], config: SelectConfig
) -> tuple[str, str]:
    """Return the chosen candidate and why: the race's winner, or of the best mean ranks the best evidence.

    With ``prefer="speed"`` the least work within one standard error of the best is taken (Breiman et al. 1984).
    """
    if config.prefer == "speed":
        best = max(ranking, key=lambda row: (row.score, -row.gflops, row.name))
        near = [row for row in ranking if row.score >= best.score - best.standard_error]
        least = min(near, key=lambda row: (row.gflops, -row.score, row.name))
        return least.name, (
            f"{least.name} needs the least work, {least.gflops:g} billion operations an image, of {len(near)} "
            f"candidates within one standard error of the best, {best.name} ({best.score:.3f}),"
        )
    if not laps:
        return decide_by_evidence(ranking)
    last = max(lap.round for lap in laps)
    rows = {row.name: row for row in ranking}
    final = [lap for lap in laps if lap.round == last]
    # Equal halves: what the race saw, and the mean rank over everything else, which steadies it on few images.
    places = mean_ranks(
        {
            "race": {lap.name: float(merits[lap.name].mean()) for lap in final},
            "rank": {lap.name: -rows[lap.name].rank for lap in final},
        }
    )
    winner = min(final, key=lambda lap: (places[lap.name], -float(merits[lap.name].mean()), rows[lap.name].gflops))
    return winner.name, (
        f"{winner.name} wins the race of {len({lap.name for lap in laps})} out of {len(ranking)} candidates "
        f"(accuracy {winner.accuracy:.3f}, best with probability {winner.chance:.2f})"
    )


def decide_by_evidence(ranking: Sequence[Candidate]) -> tuple[str, str]:
    """Return which of the best mean ranks is ahead in PARC minus log loss, each standardised over them, and why.

    Those two tell candidates apart better than the mean rank where images are few: decision 15 has the figures.
    """
    seated = ranking[:SEATS]
    shown = {row.name: f"PARC {row.parc:.3f}, log loss {row.loss:.3f}" for row in seated}
    sums = scale([[row.parc, -row.loss] for row in seated]).sum(axis=1)
    places = np.argsort(-sums, kind="stable")  # of equals the better rank
    first = seated[places[0]]
    probe = f"(probe {first.score:.3f}, {first.low:.3f} to {first.high:.3f})"
    if len(ranking) == 1:
        return first.name, f"{first.name} is the only candidate {probe}"
    second = seated[places[1]]
    return first.name, (
        f"{first.name} has the best evidence of the {len(seated)} best mean ranks: {shown[first.name]}; next is "
        f"{second.name}: {shown[second.name]} {probe}"
    )


def list_rivals(
    chosen: str,
    ranking: Sequence[Candidate],
    favourite: str | None,
    record: Mapping[str, float],
    merits: Mapping[str, np.ndarray],
    ratings: Mapping[str, Rating],
    codes: np.ndarray,
    seed: int,
) -> list[Rival]:
    """Return what the static prior, the track record and the probe alone would have taken, and their regret.

    Where there is one candidate there was nothing to choose.
    """
    if len(ranking) < 2:
        return []
    choices = {"static prior": favourite}
    tried = {row.name: record[row.name] for row in ranking if record.get(row.name) is not None}
    choices["track record"] = max(tried, key=lambda name: (tried[name], name)) if tried else None
    choices["probe alone"] = max(ranking, key=lambda row: (row.score, -row.gflops, row.name)).name
    rivals = []
    for chooser, name in choices.items():
        if name is None:
            continue
        raced = chosen in merits and name in merits
        ours, theirs = (merits[each] if raced else ratings[each].merit(codes) for each in (chosen, name))
        low, high = resample_mean(ours - theirs, seed, ratings[chosen].groups)
        rivals.append(
            Rival(chooser=chooser, chosen=name, regret=float((ours - theirs).mean()), low=low, high=high,
                  basis="race" if raced else "probe")
        )  # fmt: skip
    return rivals


def resample_mean(differences: np.ndarray, seed: int, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of ``(N,)``, of images in ``groups`` where they come in such."""
    if (held := hold_together(groups)) is not None:
        strata = np.zeros(len(differences), dtype=np.int64)
        means = [block @ differences / len(differences) for block in draw_weights(strata, RESAMPLES, seed, held)]
        return percentile_interval(np.concatenate(means), float(differences.mean()))
    rows = np.random.default_rng(seed).integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.quantile(differences[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)

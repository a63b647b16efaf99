"""Give each component (images that must stay together) a part, so that every class comes near its quotas."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from regraft.data.sources.parts import PARTS


@dataclass(frozen=True, slots=True)
class Component:
    """Images that share a group or their content.

    ``key`` orders components at random yet reproducibly; ``allowed`` are the parts that the source leaves open;
    ``decided`` is the part it has for ever, or None; ``drawn`` says that they are a random sample of production.
    """

    key: str
    images: tuple[str, ...]
    labels: Mapping[str, int]
    allowed: tuple[str, ...]
    decided: str | None
    drawn: bool = False

    @property
    def movable(self) -> bool:
        """Whether there is anything to choose."""
        return self.decided is None and len(self.allowed) > 1


def make_key(names: Iterable[str], seed: int) -> str:
    """Return the place of a component in the order of assignment: the least hash of its groups or images."""
    return min(hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names)


def assign_parts(components: list[Component], shares: Mapping[str, float]) -> dict[str, str]:
    """Return the part of each component, by its key.

    Large components choose first, equal ones in the order of their keys; each takes the part that leaves the least
    sum over its classes of (images - quota)^2 / quota. For single images that is the Sainte-Lague apportionment.

    Args:
        components: In any order; the result does not depend on it.
        shares: Share of each part, 0-1, summing to 1.
    """
    quotas = _count_quotas(components, shares)
    filled: Counter[tuple[tuple[str, ...], str, str]] = Counter()
    chosen: dict[str, str] = {}
    for component in sorted(components, key=lambda c: (c.movable, -len(c.images), c.key)):
        part = component.decided or component.allowed[0]
        if component.movable:
            part = min(component.allowed, key=lambda name: _cost(component, name, quotas, filled))
        chosen[component.key] = part
        for label, count in component.labels.items():
            filled[component.allowed, label, part] += count
    _fill_empty(components, chosen)
    return chosen


def _count_quotas(
    components: list[Component], shares: Mapping[str, float]
) -> dict[tuple[tuple[str, ...], str, str], float]:
    """Return how many images of each class should be in each part, apart for each set of parts left open."""
    totals: Counter[tuple[tuple[str, ...], str]] = Counter()
    for component in components:
        for label, count in component.labels.items():
            totals[component.allowed, label] += count
    return {
        (allowed, label, part): total * shares[part] / sum(shares[name] for name in allowed)
        for (allowed, label), total in totals.items()
        for part in allowed
    }


def _cost(component: Component, part: str, quotas: Mapping, filled: Mapping) -> float:
    places = [((component.allowed, label, part), count) for label, count in component.labels.items()]
    return sum((count * count + 2 * count * (filled[place] - quotas[place])) / quotas[place] for place, count in places)


def _fill_empty(components: list[Component], chosen: dict[str, str]) -> None:
    """Move single components so that each class of at least three of them has an image in every part."""
    by_label: dict[str, list[Component]] = defaultdict(list)
    for component in sorted(components, key=lambda c: (len(c.images), c.key)):
        for label in component.labels:
            by_label[label].append(component)
    held = Counter((label, chosen[c.key]) for label, members in by_label.items() for c in members)
    for label in sorted(label for label, members in by_label.items() if len(members) >= len(PARTS)):
        for part in (part for part in PARTS if not held[label, part]):
            for component in by_label[label]:
                origin = chosen[component.key]
                spare = all(held[name, origin] > 1 for name in component.labels)
                if component.movable and part in component.allowed and spare:
                    chosen[component.key] = part
                    held.subtract((name, origin) for name in component.labels)
                    held.update((name, part) for name in component.labels)
                    break

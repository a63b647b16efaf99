"""Twins share a part: the components of two images that show one picture are made one."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from regraft.data.dataset.twins import Pair
from regraft.data.split.stratify import Component


def join_twins(components: Sequence[Component], pairs: Iterable[Pair]) -> list[Component]:
    """Return the components with those of twins made one, wherever both may still be in the same part."""
    place = {sha256: number for number, component in enumerate(components) for sha256 in component.images}
    joined: dict[int, Component] = dict(enumerate(components))
    for one, other in pairs:
        if one not in place or other not in place or place[one] == place[other]:
            continue
        if (both := _join(joined[place[one]], joined[place[other]])) is not None:
            del joined[place[other]]
            joined[place[one]] = both
            place |= dict.fromkeys(both.images, place[one])
    return list(joined.values())


def _join(one: Component, other: Component) -> Component | None:
    """Return both as one component, or None where their parts are decided apart or given apart."""
    decided = {part for part in (one.decided, other.decided) if part is not None}
    allowed = tuple(part for part in one.allowed if part in other.allowed)
    free = [each for each in (one, other) if each.decided is None]
    if len(decided) > 1 or not allowed or any(part not in each.allowed for part in decided for each in free):
        return None
    labels = {
        label: one.labels.get(label, 0) + other.labels.get(label, 0)
        for label in sorted(itertools.chain(one.labels, other.labels))
    }
    return replace(
        one,
        key=min(one.key, other.key),
        images=tuple(sorted({*one.images, *other.images})),
        labels=labels,
        allowed=allowed,
        decided=next(iter(decided), None),
        drawn=one.drawn and other.drawn,
    )

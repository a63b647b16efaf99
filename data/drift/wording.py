"""A drift verdict in one sentence that the people at the line can act on."""

from collections.abc import Sequence

from regraft.data.drift.statistics import ColumnTest

WORDS: dict[str, tuple[str, str, str]] = {
    # figure: (when it fell, when it rose, where to look)
    "brightness": ("darker", "brighter", "lamp or exposure"),
    "contrast": ("flatter", "harder in contrast", "lamp or camera"),
    "sharpness": ("softer", "sharper", "camera, lens or focus"),
    "noise": ("cleaner", "noisier", "camera"),
    "dark_share": ("less black", "blacker in places", "lamp or exposure"),
    "bright_share": ("less blown out", "blown out in places", "lamp or exposure"),
    "saturation": ("paler in colour", "stronger in colour", "lamp or camera"),
    "warmth": ("bluer", "redder", "lamp"),
    "log2_pixels": ("smaller", "larger", "camera or sending software"),
    "log2_aspect": ("narrower", "wider", "camera or sending software"),
}
MOST = 3
"""Figures named in the sentence; the verdict lists all."""


def write_number(value: float) -> str:
    """Return a figure to three decimals, without a minus before zero."""
    return f"{round(value, 3) + 0.0:g}"


def name_change(test: ColumnTest) -> str:
    """Return e.g. "darker (brightness 0.52 -> 0.31)"."""
    fell, rose, _ = WORDS.get(test.name, ("lower", "higher", ""))
    old, new = write_number(test.reference_median), write_number(test.window_median)
    word = "spread differently" if old == new else rose if test.window_median > test.reference_median else fell
    return f"{word} ({test.name} {old} -> {new})"


def name_causes(tests: Sequence[ColumnTest]) -> str:
    """Return where to look, in the order of the figures, each place once."""
    places: list[str] = []
    for test in tests:
        _, _, where = WORDS.get(test.name, ("", "", "images"))
        places += [place for place in where.replace(" or ", ", ").split(", ") if place not in places]
    return places[0] if len(places) == 1 else ", ".join(places[:-1]) + " or " + places[-1]


def describe_images(changes: Sequence[ColumnTest]) -> str:
    """Return what happened to the images, given the quality figures that moved, most changed first."""
    if not changes:
        return (
            "the images changed in a way that brightness, sharpness and the like do not show: "
            "look for a new material, texture or defect"
        )
    told = changes[:MOST]
    return f"the images are {', '.join(map(name_change, told))}; look at the {name_causes(told)}"


def describe_mix(shares: dict[str, tuple[float, float]]) -> str:
    """Return the class whose share moved most, given class -> (reference share, window share)."""
    name = max(shares, key=lambda key: abs(shares[key][1] - shares[key][0]))
    old, new = shares[name]
    return f"{'more' if new > old else 'fewer'} images of {name} ({old:.0%} -> {new:.0%})"


def describe_accuracy(reference: float, estimated: float) -> str:
    """Return the estimated accuracy beside the reference's; NaN is one that cannot be estimated."""
    if estimated != estimated:
        return "they are too unlike the reference to estimate the accuracy without labels"
    return f"estimated accuracy {estimated:.2f}, {reference:.2f} on the reference"


def capitalise(sentence: str) -> str:
    """Return the sentence with its first letter large and the rest as it is."""
    return sentence[:1].upper() + sentence[1:]

"""What earlier stages noted and the reader of a report must know before the figures, a sentence each."""

from collections.abc import Mapping
from typing import Any

NO_LICENCE = ("", "unknown", "other", "none")


def list_notes(summary: Mapping[str, Any], validation: Mapping[str, Any], backbone: Mapping[str, Any]) -> list[str]:
    """Return the notes, the gravest first, none twice.

    Args:
        summary: The dataset's summary.json; ``findings`` are what was seen while the images were read.
        validation: validation.json; ``remarks`` are lost classes and advice that nothing stopped for.
        backbone: name and licence.
    """
    notes = [*validation.get("remarks", ()), *summary.get("findings", ())]
    copies = summary.get("images", 0) - summary.get("distinct", 0)
    if copies > 0:
        notes.append(
            f"{copies} of {summary['images']} images are exact copies of another one; each content counts once."
        )
    licence = str(backbone.get("licence") or "")
    if licence.strip().lower() in NO_LICENCE:
        named = f'says only "{licence}"' if licence else "does not say"
        notes.append(
            f"Backbone {backbone.get('name')}: its source {named} under which licence it may be used; find out before "
            "the model is."
        )
    return list(dict.fromkeys(notes))

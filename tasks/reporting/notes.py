"""What earlier stages noted and the reader of a report must know before the figures, a sentence each."""

from collections.abc import Mapping
from typing import Any

from regraft.models.backbones.licences import read_stated


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
    licence = read_stated(str(backbone.get("licence") or "unknown"))
    if licence.leaves_open or "non-commercial" in licence.traits:
        notes.append(f"Backbone {backbone.get('name')}: its licence is {licence.describe()}; see that you may use it.")
    return list(dict.fromkeys(notes))

"""The application object and what all commands share."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="regraft",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="From a raw folder of labelled images to a served model that keeps itself right.\n\n"
    "Example: regraft init W && regraft train --workspace W --data photos/ && regraft serve --workspace W",
)

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="The workspace.", show_default="here")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")]


def answer(result: Any, as_json: bool, lines: str) -> None:
    """Print ``result`` as JSON, or ``lines`` for people."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=1, ensure_ascii=False, default=str) + "\n")
    else:
        sys.stdout.write(lines.rstrip() + "\n")
    sys.stdout.flush()

"""The notebook of the documentation, run from its first cell to its last in a kernel of its own."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "regraft.ipynb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return what each code cell shows, as one text; a cell that raises stops the run."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=7200, resources={"metadata": {"path": str(folder)}}).execute()
    return [show(cell) for cell in notebook.cells if cell.cell_type == "code"]


def show(cell: nbformat.NotebookNode) -> str:
    texts = [output.get("text", "") for output in cell.outputs]
    return "\n".join([*texts, *(text for output in cell.outputs for text in output.get("data", {}).values())])


@pytest.mark.slow
def test_the_notebook_trains_shows_and_asks(outputs: list[str]) -> None:
    photos, run, values, answers, error = outputs
    assert photos.count("'") == 12
    assert "<table>" in run and "<iframe" in run and "promoted" in run
    assert " images" in values and "report.html" in values
    assert answers.count("(") == 3
    assert error.strip().startswith("'RegistryError: there is no previous version")


def test_the_stored_notebook_holds_no_output_of_an_older_run() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert cells and all(not cell.outputs and cell.execution_count is None for cell in cells)

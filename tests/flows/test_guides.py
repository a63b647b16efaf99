"""The guides' commands, run as they are written, one guide after the other in one folder."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.data.synthetic.steel import SteelLine, render_folder

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
ORDER = ("first-model", "serve-label-retrain", "team", "reading-the-report")
PORT = 3000
PER_CLASS = 12
HUNG_S = 7200
"""What ends a guide that hangs; a busy machine may need many times what an idle one does."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the photos of a user."""
    folder = tmp_path_factory.mktemp("desk")
    render_folder(folder / "photos", SteelLine.default(), PER_CLASS, seed=0)
    return folder


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("guide", ORDER)
def test_the_commands_of_a_guide_work_as_written(guide: str, desk: Path) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", (GUIDES / f"{guide}.md").read_text(), re.MULTILINE | re.DOTALL)
    script = "".join(blocks)
    if str(PORT) in script and is_taken(PORT):
        pytest.skip(f"port {PORT} of this machine is taken")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-m", "-c", script],
        cwd=desk, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=HUNG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_guide_is_run_and_linked() -> None:
    readme = (GUIDES.parents[1] / "README.md").read_text()
    assert sorted(path.stem for path in GUIDES.glob("*.md")) == sorted(ORDER)
    assert all(f"docs/guides/{guide}.md" in readme for guide in ORDER)

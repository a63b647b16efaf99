"""What ``pip wheel .`` makes: one package with every file it reads, which works where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from regraft.flows.server.stack import free_port

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("flows", "tasks", "models", "data", "serving")


def list_files() -> list[str]:
    """Return the files of the checkout that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in list_files():  # a copy: building leaves a folder in the source
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", folder, source], check=True, capture_output=True, timeout=300)
    return next(folder.glob("regraft-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs' folder of a new environment with the wheel; the other packages are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--disable-pip-version-check", wheel], check=True, capture_output=True, timeout=300)
    # A path entry does not bring along this environment's own hooks, by which the checkout would be importable.
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def outside() -> dict[str, str]:
    """Return an environment in which nothing points to the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def test_the_wheel_holds_one_package_and_every_file_of_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"regraft"}
    for name in [name for name in list_files() if name.partition("/")[0] in {*FLOORS, "regraft"}]:
        inside = name if name.startswith("regraft/") else f"regraft/{name}"
        assert "store" in Path(name).parts or inside in names, name


@pytest.mark.slow
def test_an_installation_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = (
        "import regraft.flows.train as train, regraft.models.backbones.hub as hub; print(train.__file__, hub.__file__)"
    )
    done = subprocess.run(
        [installed / "python", "-c", code], cwd=tmp_path, env=outside(), capture_output=True, text=True
    )
    assert done.returncode == 0 and str(ROOT) not in done.stdout, done.stderr
    shown = subprocess.run(
        [installed / "regraft", "--help"], cwd=tmp_path, env=outside(), capture_output=True, text=True
    )
    assert "train" in shown.stdout
    subprocess.run([installed / "regraft", "init", "w"], cwd=tmp_path, env=outside(), check=True, capture_output=True)
    assert (tmp_path / "w" / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()


def test_an_installation_serves_a_workspace(installed: Path, copied, images: Path) -> None:
    port = free_port()
    command = [installed / "regraft", "serve", "--workspace", copied.home.root, "--port", str(port)]
    serving = subprocess.Popen(command, cwd=copied.home.root, env=outside(), stdout=subprocess.PIPE, text=True)
    with serving as process:
        try:
            assert str(port) in process.stdout.readline()
            image = next(path for path in images.rglob("*") if path.is_file())
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", files={"image": image.read_bytes()}, timeout=60)
            assert answer.status_code == 200 and json.loads(answer.text)["label"]
        finally:
            process.terminate()
    assert process.returncode == 0

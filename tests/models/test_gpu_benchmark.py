"""The benchmark of GPUs runs by itself, and says so where there is nothing that it could measure."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# Without regraft the operators that timm may lack are not declared: they are here as where torchvision is whole.
ALONE = """
import runpy, sys
sys.path.insert(0, "models/compute")
import torchvision_gap
sys.modules["regraft"] = None
sys.argv = ["benchmarks/gpu.py", "--device", "cpu", "--quick"]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def list_measured(result: subprocess.CompletedProcess) -> list[str]:
    return [row.split(" | ")[2] for row in result.stdout.splitlines() if row.startswith("| test_")]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a CUDA device")
def test_without_a_device_it_ends_with_2_and_says_why() -> None:
    for arguments, said in (([], "no CUDA device here"), (["--device", "cpu"], "goes with --quick only")):
        result = run("benchmarks/gpu.py", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert said in result.stderr


@pytest.mark.slow
def test_it_runs_on_a_cpu_and_without_regraft() -> None:
    assert list_measured(run("benchmarks/gpu.py", "--device", "cpu", "--quick")) == ["limit", "timm", "regraft"] * 2
    alone = run("-c", ALONE)
    assert alone.returncode == 0
    assert "regraft is not installed" in alone.stderr
    assert [row.split(" | ")[2] for row in alone.stdout.splitlines() if row.startswith("| test_")] == [
        "limit",
        "timm",
    ] * 2

"""bench/gpu_wheels.py: what a bare GPU machine is given is enough for a GPU session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.repository import BENCH, ROOT

sys.path.append(str(BENCH))

import gpu
import gpu_wheels
from gpu_parts import settled

MARK = ".".join(("pytest", "mark", "cuda"))  # the Makefile searches for it too, and must not find it here
BARE_MACHINE = Path(__file__).parents[1] / "helpers" / "bare_machine.py"


@pytest.fixture(scope="module")
def installed() -> str:
    """Returns the distributions of a bare machine with the collected wheels: those of the image, and what they need."""
    return ",".join(sorted({*gpu_wheels.closure(gpu_wheels.IMAGE, ()), *gpu_wheels.needed(), "saepipe"}))


def run(installed: str, file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BARE_MACHINE), installed, str(file), *arguments]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the plugins of this machine
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def test_every_requirement_is_collected_or_left_out_on_purpose() -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {canonicalize_name(Requirement(line).name) for line in lines}
    assert names <= gpu_wheels.needed() | set(gpu_wheels.IMAGE) | set(gpu_wheels.UNUSED)
    assert not gpu_wheels.needed() & {*gpu_wheels.IMAGE, *gpu_wheels.UNUSED}
    assert {"pytest", "hypothesis", "pydantic-core"} <= gpu_wheels.needed()  # for the tests, and needed by another


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.11.0"),
        ("transformers", "5.17.0"),
        ("huggingface_hub", "1.33.0"),  # transformers 5.17 needs one before 2
        ("numpy", "2.5.2"),
        ("safetensors", "0.8.0"),
        ("triton", "3.6.0"),
    ],
)
def test_the_requirements_admit_the_versions_of_the_image(name: str, version: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    (requirement,) = (Requirement(line) for line in lines if Requirement(line).name == name)
    assert requirement.specifier.contains(version)


def test_a_distribution_that_only_an_unused_one_needs_is_left_out() -> None:
    assert "pandas" not in gpu_wheels.needed()  # of datasets
    assert "pandas" in gpu_wheels.closure(["saepipe"], ())


def test_every_part_runs_with_what_is_collected(installed: str, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    process = run(installed, BENCH / "gpu.py", "--tiny", "--out", str(out))
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(out.read_text())
    assert list(result["parts"]) == list(gpu.PARTS)
    assert result["parts"]["kernels"]["right"]
    assert result["parts"]["reference"]["runs"] == 10
    assert 0 < result["parts"]["harvest"]["context 32"]["ratio"] < 5
    for width in (result["parts"]["steps"][f"{name} 64"] for name in settled.ARCHITECTURES):
        contenders = width["contenders"]
        assert {"matmul", "plain", "plain, compiled", "dense", "sparse", "sparse, streamed"} <= contenders.keys()
        skipped = {name for name, contender in contenders.items() if "skipped" in contender}
        assert skipped <= {"dense, graphed", "dense, inductor"}  # without CUDA; at all widths but the first
        assert all(contender["ms"] > 0 for name, contender in contenders.items() if name not in skipped)
    assert result["aims"] == []  # tiny sizes support no claims


def test_the_cuda_tests_are_collected_with_what_is_collected(installed: str, tmp_path: Path) -> None:
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if MARK in path.read_text()]
    pytest_main = tmp_path / "collect.py"
    pytest_main.write_text("import pytest, sys; sys.exit(pytest.main(sys.argv[1:]))")
    options = ["-q", "--collect-only", "-p", "no:cacheprovider", "-m", "cuda"]
    process = run(installed, pytest_main, *options, *files)
    assert process.returncode == 0, process.stdout + process.stderr
    for module in ("test_kernels", "test_autograd", "test_stream", "test_run_cuda"):
        assert f"{module}.py::" in process.stdout

"""Collects in one folder the wheels that `make gpu` installs on a machine without a network.

    python bench/gpu_wheels.py [--folder gpu-wheels]

Wheels are for Python 3.12 on 64-bit Linux, at the versions of constraints.txt: all that saepipe and the CUDA tests
need, except what comes with the machine (`IMAGE`) and what nothing in a GPU session imports (`UNUSED`).
saepipe's own wheel tells its version; the code that runs is the checkout's. Fails above 50 MiB.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
IMAGE = ("torch", "triton", "transformers", "tokenizers", "huggingface-hub", "numpy", "safetensors")
UNUSED = ("datasets", "scipy", "scikit-learn")
"""Text from hubs, tests of significance and probes: they and what only they need would be 150 MiB."""
TESTS = ("pytest", "hypothesis")
TARGET = {"python_version": "3.12", "python_full_version": "3.12.0", "sys_platform": "linux", "extra": ""}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST_MIB = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "gpu-wheels", help="folder to make anew")
    folder: Path = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    target = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp", *platforms]
    pip("download", "--no-deps", *target, "-c", str(ROOT / "constraints.txt"), "-d", str(folder), *sorted(needed()))
    mib = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    print(f"{folder}: {len(list(folder.iterdir()))} wheels, {mib:.1f} MiB")
    if mib > MOST_MIB:
        sys.exit(f"more than {MOST_MIB} MiB: what has grown? see UNUSED in {Path(__file__).name}")


def needed() -> set[str]:
    """Returns the names of the distributions to collect."""
    return closure(["saepipe", *TESTS], without=[*IMAGE, *UNUSED]) - {"saepipe"}


def closure(names: Iterable[str], without: Iterable[str]) -> set[str]:
    """Returns distributions and all that they need on the target, but for `without` and what only those need.

    Reads the metadata of installed distributions; one that is not installed here is taken to need nothing.
    """
    left_out, found, waiting = set(without), set[str](), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found | left_out:
            found.add(name)
            waiting += needs(name)
    return found


def needs(name: str) -> list[str]:
    """Returns the names of the distributions that `name` needs on the target."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    requirements = map(Requirement, lines)
    return [
        canonicalize_name(each.name) for each in requirements if each.marker is None or each.marker.evaluate(TARGET)
    ]


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments], check=True)


if __name__ == "__main__":
    main()

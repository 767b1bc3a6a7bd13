"""Free memory: the kernel's estimate, within the limit of a container."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saepipe.data.batches import memory
from saepipe.data.batches.memory import check_resident, free_ram
from saepipe.data.errors import ConfigError

pytestmark = pytest.mark.quick

MEMINFO = (
    "MemTotal:       24000000 kB\nMemFree:          300000 kB\nMemAvailable:   20000000 kB\nHugePages_Total:       0\n"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that replaces the kernel's files."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def test_the_page_cache_counts_as_free(machine: Path) -> None:
    assert free_ram() == 20_000_000 * 1024


def test_a_container_may_limit_it(machine: Path) -> None:
    """Inactive files in the container's own usage count as free."""
    (machine / "memory.max").write_text("8000000000\n")
    (machine / "memory.current").write_text("5000000000\n")
    (machine / "memory.stat").write_text("anon 1000\nfile 4500000000\ninactive_file 4000000000\n")
    assert free_ram() == 8e9 - (5e9 - 4e9)


def test_a_container_without_a_limit_changes_nothing(machine: Path) -> None:
    (machine / "memory.max").write_text("max\n")
    assert free_ram() == 20_000_000 * 1024


def test_without_an_estimate_it_is_all_of_the_machines_memory(machine: Path) -> None:
    (machine / "meminfo").unlink()
    assert free_ram() > 2**30


def test_this_machine_has_some() -> None:
    assert 2**26 < free_ram() < 2**50


@pytest.mark.parametrize(("resident", "device"), [("none", "cpu"), ("ram", "cpu"), ("ram", "cuda"), ("gpu", "cuda:1")])
def test_valid_combinations_of_resident_and_device(resident: memory.Resident, device: str) -> None:
    check_resident(resident, torch.device(device))


def test_resident_gpu_needs_a_cuda_device() -> None:
    with pytest.raises(ConfigError, match="resident: gpu needs a CUDA device, but the device is mps"):
        check_resident("gpu", torch.device("mps"))

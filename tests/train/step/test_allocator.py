"""Small arrays reuse freed memory, so they cost no new pages; large ones are returned and have huge pages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FRESH = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
"""Environment without the setting that earlier tests of this process may have made."""

FAULTS = """
import resource
import torch
from saepipe.train.step.allocator import keep_freed_memory
torch.set_num_threads(1)
if {keep}:
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):  # until the heap has a large enough hole
    torch.zeros(3000, 4096).add_(1)
before = faults()
for _ in range(3):
    torch.zeros(3000, 4096).add_(1)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_an_array_of_the_same_size_costs_no_new_pages() -> None:
    def faults(keep: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(keep=keep)]
        return int(subprocess.run(command, env=FRESH, capture_output=True, text=True, check=True).stdout)

    assert faults(keep=True) < 100
    assert faults(keep=False) > 1000  # 48 MB three times, in pages of 4 kB; otherwise the test shows nothing


LARGE = """
from pathlib import Path
import torch
import saepipe.train.run
from saepipe.train.step.allocator import keep_freed_memory
def kilobytes(file, field):
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(field))
keep_freed_memory()
array = torch.ones(2**25)
huge = kilobytes("/proc/self/smaps_rollup", "AnonHugePages")
before = kilobytes("/proc/self/status", "VmRSS")
del array
print(huge, before - kilobytes("/proc/self/status", "VmRSS"))
"""
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_large_array_has_huge_pages_and_returns_them() -> None:
    """Importing the trainer must allocate nothing, or torch would have read the setting before it was made."""
    answer = subprocess.run([sys.executable, "-c", LARGE], env=FRESH, capture_output=True, text=True, check=True).stdout
    huge, returned = map(int, answer.split())
    assert returned > 120_000  # of 131,072 kB
    if "[never]" not in HUGE_PAGES.read_text():
        assert huge > 100_000

"""Freed memory is reused: allocating the same array again costs no new pages."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults(keep=True) < 100
    assert faults(keep=False) > 1000  # 48 MB three times, in pages of 4 kB; otherwise the test shows nothing

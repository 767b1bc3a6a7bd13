"""Memory of a rank: what lies where, whether ranks fit, and the peak that the system counts."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saepipe.data.batches import rank_memory
from saepipe.data.batches.rank_memory import RankMemory, measured_memory, resident_peak

pytestmark = pytest.mark.quick


def test_without_a_gpu_all_is_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_memory, "free_ram", lambda: 10e9)
    memory = RankMemory.of(torch.device("cpu"), host=10**9, on_device=2 * 10**9)
    assert memory == RankMemory(3 * 10**9, 0, 10**10, 0)
    assert memory.sentence() == "3 GB of the host's memory (10 GB free)"
    assert [memory.fits(ranks) for ranks in (1, 3, 4)] == [True, True, False]


def test_a_gpus_share_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_memory, "free_ram", lambda: 10e9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 * 10**9, 8 * 10**9))
    memory = RankMemory.of(torch.device("cuda", 0), host=10**9, on_device=6 * 10**9)
    assert memory == RankMemory(10**9, 6 * 10**9, 10**10, 5 * 10**9)
    assert memory.sentence() == "1 GB of the host's memory (10 GB free), 6 GB of the device's (5 GB free)"
    assert not memory.fits()


def test_the_peak_is_that_of_the_block() -> None:
    with measured_memory(torch.device("cpu")) as before:
        pass
    np.ones(2**28, np.uint8)  # 256 MiB, which are freed
    with measured_memory(torch.device("cpu")) as after:
        pass
    with measured_memory(torch.device("cpu")) as during:
        np.ones(2**28, np.uint8)
    assert after.host - before.host < 2**26
    assert during.host - after.host == pytest.approx(2**28, rel=0.1)


def test_a_kernel_that_resets_no_peak_gives_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = SimpleNamespace(write_text=lambda _: (_ for _ in ()).throw(PermissionError(13, "no")))
    monkeypatch.setattr(rank_memory, "CLEAR_REFS", refusing)
    with measured_memory(torch.device("cpu")) as measured:
        pass
    assert measured.host == pytest.approx(resident_peak(), rel=0.01)

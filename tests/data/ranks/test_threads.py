"""Ranks of a machine share out its cores, unless the user says how many threads each has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.threads import share_cores

CORES = len(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(7)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("local_size", "variables", "threads"),
    [
        (1, {}, 7),  # a process alone keeps what it has
        (1, {"OMP_NUM_THREADS": "1"}, 7),
        (2, {"OMP_NUM_THREADS": "1"}, max(1, CORES // 2)),  # as torchrun sets it
        (2 * CORES, {}, 1),
        (2, {"OMP_NUM_THREADS": "3"}, 7),
    ],
)
def test_threads_of_a_rank(local_size: int, variables: dict[str, str], threads: int) -> None:
    share_cores(Ranks(0, local_size, 0, local_size), variables)
    assert torch.get_num_threads() == threads

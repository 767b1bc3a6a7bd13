"""Threads of torch in each rank: torchrun sets one for two ranks or more, and leaves a single rank all cores."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from saepipe.data.ranks.launch import Ranks


def share_cores(ranks: Ranks, environment: Mapping[str, str] = os.environ) -> None:
    """Sets torch's threads to this rank's share of the cores, unless OMP_NUM_THREADS asks for more than one."""
    if ranks.local_size > 1 and environment.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks.local_size))

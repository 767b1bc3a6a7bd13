"""Each rank of a machine has a CUDA device of its own."""

from __future__ import annotations

import pytest

from saepipe.data.device import cuda_name, pick_device
from saepipe.data.errors import ConfigError
from saepipe.data.ranks.launch import Ranks


def test_a_single_process_leaves_the_choice_to_torch() -> None:
    assert cuda_name(Ranks(), 8) == "cuda"


def test_ranks_of_a_machine_have_devices_of_their_own() -> None:
    ranks = [Ranks(rank=8 + local, size=12, local_rank=local, local_size=4) for local in range(4)]
    assert [cuda_name(rank, 4) for rank in ranks] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert [cuda_name(rank, 2) for rank in ranks] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_an_unknown_device_is_an_error() -> None:
    with pytest.raises(ConfigError, match="torch knows no device 'gpu'"):
        pick_device("gpu")

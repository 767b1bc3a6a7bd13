"""Ranks are read from torchrun's variables, and pieces of work are dealt out without a gap."""

from __future__ import annotations

import pytest

from saepipe.data.errors import ConfigError
from saepipe.data.ranks.launch import Ranks

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}


def test_a_process_that_torchrun_did_not_start_is_the_only_rank() -> None:
    """Other launchers set RANK and WORLD_SIZE too, for processes that have nothing to do with each other."""
    assert Ranks.of_environment({"RANK": "3", "WORLD_SIZE": "4"}) == Ranks(0, 1, 0, 1, 0)


def test_the_variables_of_torchrun_are_read() -> None:
    assert Ranks.of_environment(TORCHRUN) == Ranks(rank=5, size=8, local_rank=1, local_size=4, life=2)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"WORLD_SIZE": "two"}, "incomplete"), ({"RANK": "8"}, "contradict"), ({"LOCAL_WORLD_SIZE": "9"}, "contradict")],
)
def test_wrong_variables_are_said(change: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Ranks.of_environment({**TORCHRUN, **change})


@pytest.mark.parametrize("size", [1, 3, 4])
def test_each_piece_of_work_has_one_owner(size: int) -> None:
    ranks = [Ranks(rank, size) for rank in range(size)]
    assert [sum(rank.owns(piece) for rank in ranks) for piece in range(10)] == [1] * 10
    shares = [sum(rank.owns(piece) for piece in range(10)) for rank in ranks]
    assert max(shares) - min(shares) <= 1

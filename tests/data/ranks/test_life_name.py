"""Ranks agree on a name, whatever earlier ranks have left in the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.life_name import agree

WAIT = timedelta(seconds=20)


def names(store: HashStore, size: int) -> set[str]:
    """Returns the names that ranks get which ask at the same time, the first of them last."""
    with ThreadPoolExecutor(size) as threads:
        ranks = [Ranks(rank, size, 0, 1) for rank in reversed(range(size))]
        return {*threads.map(lambda rank: agree(store, rank, WAIT), ranks)}


def test_all_ranks_get_one_name_and_each_start_another() -> None:
    store = HashStore()
    seen = [names(store, size) for size in (3, 3, 2, 5)]
    assert [len(of_start) for of_start in seen] == [1, 1, 1, 1]
    assert len(set.union(*seen)) == 4


def test_what_a_rank_that_died_has_asked_is_no_rank_that_has_come() -> None:
    store = HashStore()
    store.set("asks/1", "of a rank that died")
    with pytest.raises(RuntimeError, match="0 of 1 other ranks have come"):
        agree(store, Ranks(0, 2, 0, 1), timedelta(seconds=0.1))
    assert len(names(store, 2)) == 1


def test_a_rank_without_a_first_one_waits_in_vain() -> None:
    with pytest.raises(RuntimeError):
        agree(HashStore(), Ranks(1, 2, 0, 1), timedelta(seconds=0.1))

"""A rank's share of a split."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.data.ranks.launch import Ranks
from saepipe.harvest.pool_maker import num_own_rows
from saepipe.harvest.pools import SplitSpec


@pytest.mark.parametrize("limit", [0, 1, 100, 101, 399, 1000])
def test_the_shares_of_ranks_are_the_rows_of_their_pools(limit: int) -> None:
    spec = SplitSpec("train", 100, limit, lambda num_rows, _: np.arange(num_rows))
    shares = [num_own_rows(spec, Ranks(rank, 3, rank, 3)) for rank in range(3)]
    owners = [row // 100 % 3 for row in range(limit)]
    assert shares == [owners.count(rank) for rank in range(3)]
    assert num_own_rows(spec, Ranks()) == limit

"""Pools that a training waits for, and removes once it has passed them."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import pytest

from helpers.rolling_pools import HOOKS, NUM_ROWS, POOL_ROWS, begun_folder, make_pool
from saepipe.data.cache.coming_rows import WaitEnded
from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.rolling.open_pools import OpenPools


@pytest.fixture
def pools(tmp_path: Path) -> OpenPools:
    pools = OpenPools(begun_folder(tmp_path / "stream"), POOL_ROWS, NUM_ROWS)
    pools.need_from(1)
    return pools


def test_a_pool_is_waited_for(pools: OpenPools) -> None:
    made = Thread(target=make_pool, args=(pools.folder, 1))
    asked = []
    pools.goes_on = lambda: asked.append(asked) or (len(asked) == 2 and made.start()) or True  # type: ignore[func-returns-value]
    assert pools.rows(1, HOOKS[0]).num_rows == POOL_ROWS
    made.join()
    assert len(asked) >= 2


def test_pools_that_were_passed_are_removed_and_closed(pools: OpenPools) -> None:
    for number in (1, 2):
        make_pool(pools.folder, number)
        pools.rows(number, HOOKS[0]).shard(0)
    pools.pass_rows(2 * POOL_ROWS - 1)
    assert pools.folder.stored() == [1, 2]
    pools.pass_rows(2 * POOL_ROWS)
    assert (pools.folder.needed(), pools.folder.stored()) == (2, [2])
    maps = Path(f"/proc/{os.getpid()}/maps").read_text()
    assert str(pools.folder.pool(2)) in maps
    assert str(pools.folder.pool(1)) not in maps  # a mapped file keeps its space
    pools.pass_all()
    assert (pools.folder.needed(), pools.folder.stored()) == (4, [])


def test_a_wait_ends_when_the_training_stops(pools: OpenPools) -> None:
    ended: list[BaseException | None] = []

    def wait() -> None:
        try:
            pools.rows(1, HOOKS[0])
        except WaitEnded as error:
            ended.append(error.reason)

    waiting = Thread(target=wait)
    waiting.start()
    pools.stop_waiting()
    waiting.join(10)
    assert ended == [None]
    pools.need_from(1)  # a later training waits again
    pools.goes_on = lambda: False
    with pytest.raises(WaitEnded, match="the text ended after 0 of"):
        pools.rows(1, HOOKS[0])


def test_a_wait_ends_with_the_harvests_error(pools: OpenPools) -> None:
    error = MachineError("the harvest has died")

    def died() -> bool:
        raise error

    pools.goes_on = died
    with pytest.raises(WaitEnded, match="has died") as ended:
        pools.rows(1, HOOKS[0])
    assert ended.value.reason is error


def test_a_text_that_ends_too_early_is_an_error_with_its_length(pools: OpenPools) -> None:
    make_pool(pools.folder, 1, 700)
    with pytest.raises(WaitEnded) as ended:
        pools.rows(1, HOOKS[0])
    assert isinstance(ended.value.reason, ConfigError)
    assert "the text ended after 1,724 of the 3,700 training tokens" in str(ended.value.reason)
    assert "num_tokens: 1724" in str(ended.value.reason)

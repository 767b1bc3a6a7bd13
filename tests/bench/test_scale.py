"""bench/scale.py: the arithmetic of what limits a harvest and a training."""

from __future__ import annotations

import sys

import pytest

from helpers.repository import BENCH

sys.path.append(str(BENCH))

from scale import Site, saturation, slowest

pytestmark = pytest.mark.quick

SITE = Site(gpu_tokens_per_s=100, text_tokens_per_s=1000, pool_rows=1000, batch_tokens=100, d_in=500, start_s=0)
"""A row has 1,000 bytes."""


def test_one_gpu_is_limited_by_its_passes() -> None:
    seconds = SITE.harvest(10**6, 1)
    assert seconds["GPUs"] == 10**4
    assert seconds["text"] == 1000
    assert seconds["encoding"] == pytest.approx(1 / (4 * 0.25))  # 1 GB by four threads
    assert slowest(seconds) == (10**4 / 3600, "GPUs")


def test_a_pass_at_the_border_of_two_pools_is_run_twice() -> None:
    assert SITE.harvest(10**6, 4)["GPUs"] == pytest.approx(10**4 * 1.1 / 4)


def test_the_one_reader_of_the_text_limits_many_gpus() -> None:
    assert saturation(SITE)["text"] == 11
    assert slowest(SITE.harvest(10**6, 10))[1] == "GPUs"
    assert slowest(SITE.harvest(10**6, 12)) == (1000 / 3600, "text")


def test_gpus_without_a_pool_or_a_run_have_no_work() -> None:
    assert SITE.harvest(2000, 8)["GPUs, 2 with work"] == pytest.approx(1000 * 1.1 / 100)
    assert slowest(Site(variants=3, gpu_rows_per_s=1).training(10**6, 8))[1] == "GPUs, 3 with work"


def test_every_machine_reads_the_whole_cache() -> None:
    site = Site(storage_read_gb_s=4, node_read_gb_s=3, compression=1, d_in=500, variants=32)
    assert site.training(10**9, 8)["reading"] == pytest.approx(1000 / 3)
    assert site.training(10**9, 32)["reading"] == pytest.approx(1000)

"""Caches shared by the tests: one of synthetic rows, and a real harvest of the toy model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "0" if torch.cuda.is_available() else "1"  # before transformers imports triton

from helpers.made_caches import structured_rows, write_cache
from helpers.object_storage import every_storage as every_storage
from helpers.object_storage import object_storage as object_storage
from helpers.object_storage import storage_ports as storage_ports
from helpers.recorded_slurm import recorded_slurm as recorded_slurm
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest

os.environ["SAEPIPE_COMMIT"] = "tests"  # equal caches stay equal while the checkout changes
torch.set_num_threads(1)  # two test processes share two cores
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it runs in the background

SHARED = Path(os.environ.get("SAEPIPE_SHARED", "../shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the longest test to the front, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_tutorial.py")


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a cache of 8,200 synthetic rows at `blocks.1.hook_resid_post`, d_in 24; last chunk and shard not full."""
    rows = {"blocks.1.hook_resid_post": structured_rows(8200, 24)}
    return write_cache(tmp_path_factory.mktemp("tiny") / "cache", rows)


@pytest.fixture(scope="session")
def toy_config() -> HarvestConfig:
    return HarvestConfig.parse(
        {
            "model": {"dtype": "float32", "device": "cpu"},
            "hooks": ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"],
            "num_tokens": 12_000,
            "heldout_tokens": 3_000,
            "heldout_share": 0.2,
            "shard_rows": 2048,
            "chunk_rows": 512,
            "pool_shards": 2,
            "batch_size": 16,
        }
    )


@pytest.fixture(scope="session")
def toy_cache(tmp_path_factory: pytest.TempPathFactory, toy_config: HarvestConfig) -> Path:
    """Returns a cache of 12,000 training tokens and a held-out part of the float32 toy model, at two hooks."""
    return harvest(toy_config, tmp_path_factory.mktemp("toy") / "cache").path


@pytest.fixture(scope="session")
def ag_news() -> Path:
    """Returns the path of 7,600 real news items: class, title, description, without a header."""
    path = SHARED / "data" / "ag_news.csv"
    if not path.exists():
        pytest.skip(f"no {path}: set SAEPIPE_SHARED to the folder that holds data/ag_news.csv")
    return path

"""Work of feature stores: gathering one, its co-active latents, and the browser's index."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

import saepipe as sp
from growth_parts.evaluations import trained
from helpers.made_stores import write_store
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.browse.run import open_runs
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.coactive import CoactivationCounter
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.gather_stores import build_stores
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.features.token_sample import SampledTokens
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.model.testbeds import Testbeds

Act = Callable[[], object]


def by_tokens(folder: Path, num_tokens: int) -> None:
    trained(folder, d_sae=256, num_seeds=1, num_tokens=num_tokens)


def by_width(folder: Path, d_sae: int) -> None:
    trained(folder, d_sae=d_sae, num_seeds=1)


def gather(folder: Path, size: int) -> Act:
    run, cache = sp.open_run(folder / "runs" / "base" / "seed-0"), sp.open_cache(folder / "cache")
    testbed = Testbeds(EvaluateConfig(), Passes()).at(cache, run.hook)
    job = StoreJob(run, testbed, Features(num_tokens=None), folder / f"store-{os.getpid()}", folder)
    return lambda: build_stores([job], Silent())


def coactive(folder: Path, d_sae: int) -> Act:
    """Counts pairs on as many tokens as a latent's share of `coactive_pairs` allows, 32 latents active on each."""
    active, settings = 32, Features()
    num_tokens = settings.coactive_pairs * d_sae // active**2 // 32
    rng = np.random.default_rng(0)
    latents = np.sort(rng.integers(0, d_sae, (num_tokens, active)), axis=1).astype(np.int32)
    counter = CoactivationCounter(d_sae, settings.coactive_pairs * d_sae)
    num = np.full(num_tokens, active)
    sampled = SampledTokens(np.zeros(num_tokens), np.arange(num_tokens), num, latents.ravel(), np.ones(latents.size))
    counter.sample.tokens = lambda: sampled  # type: ignore[method-assign]
    return lambda: counter.nearest(settings.num_neighbours)


def made(folder: Path, d_sae: int) -> None:
    for seed in range(2):
        write_store(folder / "runs" / "topk" / f"seed-{seed}", d_sae, d_in=256, seed=seed)


def index(folder: Path, d_sae: int) -> Act:
    """Opens two runs, and asks for what a page shows: columns, all blocks of tokens, a search, a match."""

    def act() -> None:
        resources = open_runs(folder / "runs")
        names = ["runs", "0/columns", *(f"0/tokens/{block}" for block in range(d_sae // 1024)), "0/match/1/5"]
        assert all(resources.get(name) for name in names)
        resources.runs[0].store.search("cat")

    return act

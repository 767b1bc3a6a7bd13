"""Small caches of synthetic contexts, SAEs with random weights, and their feature stores.

Numbers are chosen so that float32 sums of them are exact: streaming must equal brute force bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.errors import MachineError
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.gather_stores import build_stores
from saepipe.evaluate.features.store import FeatureStore
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.train.config import TrainConfig
from saepipe.train.formats import saelens
from saepipe.train.rundir.finished_run import Run
from saepipe.train.rundir.load import load
from saepipe.train.sae.relu import ReLU

HOOK = "blocks.1.hook_resid_post"
D_IN, SIZE, NUM_CONTEXTS, VOCAB = 24, 16, 70, 50
SETTINGS: dict[str, Any] = {"num_top": 3, "num_quantiles": 2, "per_quantile": 2, "window": 6, "num_neighbours": 3}


@dataclass(frozen=True)
class World:
    """A cache, and its content in stream order."""

    cache: Cache
    x: np.ndarray
    """(num_contexts, context_size, d_in) float32, as read from the cache; NaN where no row is stored"""
    contexts: np.ndarray
    documents: np.ndarray

    def first(self, num_tokens: int | None) -> np.ndarray:
        """Returns x, with NaN after the first `num_tokens` tokens."""
        x = self.x.copy()
        kept = np.flatnonzero(~np.isnan(x[..., 0]).ravel())
        x.reshape(-1, D_IN)[kept[num_tokens:] if num_tokens else []] = np.nan
        return x


def make_world(folder: Path, profile: Profile = "lossless") -> World:
    """Writes contexts whose first token, and some others, have no row; pools of 256 rows cut contexts anywhere."""
    rng = np.random.default_rng(0)
    shape = (NUM_CONTEXTS, SIZE)
    x = (rng.integers(-16, 17, (*shape, D_IN)) * (rng.random((*shape, 1)) < 0.8) / 8).astype(np.float32)
    present = rng.random(shape) < 0.9
    present[:, 0] = False
    contexts = rng.integers(1, VOCAB, shape).astype(np.int32) * present
    documents = np.cumsum(~present).reshape(shape).astype(np.int32)
    context_id, position = np.nonzero(present)
    rows = torch.from_numpy(x[present]).bfloat16()
    layout = Layout({HOOK: D_IN}, SIZE, 128, 64, profile)
    attributes = {"format_version": layout.format_version, "hooks": [HOOK], "d_in": D_IN, "context_size": SIZE}
    attributes |= {"model": {"id": "made up", "revision": None}, "num_heldout_contexts": NUM_CONTEXTS}
    attributes |= {"config": {"model": {"model": str(folder / "no model")}}, "special_ids": [0]}
    arrays_by_name = {"contexts": contexts, "documents": documents, "keep": present}
    with (
        artifact.writer_lock(folder),
        closing(CacheWriter(folder, layout, {"train": 256, "heldout": 128}, snr_floor=0)) as writer,
    ):
        writer.start(attributes)
        writer.put_contexts("train", 0, arrays_by_name)
        writer.put_contexts("heldout", 0, {f"heldout/{name}": array for name, array in arrays_by_name.items()})
        for number, start in enumerate(range(0, len(rows), 256)):
            span = slice(start, start + 256)
            arrays = {
                f"acts/{HOOK}": _bits(rows[span]),
                f"norm/{HOOK}": rows[span].float().norm(dim=1).numpy(),
                "context_id": context_id[span],
                "position": position[span].astype(np.int32),
            }
            order = permutation(len(arrays["position"]), 0, number).numpy()
            writer.put(RowPool("train", number, arrays, order, {"batches": 0, "used": 0, "dropped": 0}))
        all_rows = torch.from_numpy(x.reshape(-1, D_IN)).bfloat16()
        for number, start in enumerate(range(0, len(all_rows), 128)):
            part = {f"heldout/acts/{HOOK}": _bits(all_rows[start : start + 128])}
            order = np.arange(len(all_rows[start : start + 128]))
            writer.put(RowPool("heldout", number, part, order, {"batches": 0, "used": 0, "dropped": 0}))
        writer.finish(attributes)
    cache = Cache.open(folder)
    return World(cache, _stored_rows(cache, shape), contexts, documents)


def _bits(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy().view(np.uint16)


def _stored_rows(cache: Cache, shape: tuple[int, int]) -> np.ndarray:
    """Puts every stored row at its context and position; an int8 cache does not return exactly what was stored."""
    bits = cache.rows(HOOK).read(0, cache.num_tokens)
    values = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    x = np.full((*shape, D_IN), np.nan, np.float32)
    contexts, positions = (cache.array(name).read(0, cache.num_tokens) for name in ("context_id", "position"))
    for value, context, position in zip(values, contexts, positions, strict=True):
        x[context, position] = value
    return x


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world") / "cache")


@pytest.fixture(scope="session")
def world_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Profile], World]:
    return lambda profile: make_world(tmp_path_factory.mktemp(profile) / "cache", profile)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Returns a writer of runs with small integer weights: 12 latents, the last dead, a zero decoder row before it."""

    def make(seed: int, *, d_sae: int = 12, cache: str = "c", damage: float = 0.0, d_in: int = D_IN) -> Run:
        rng = torch.Generator().manual_seed(seed)
        W_enc = torch.randint(-1, 2, (d_in, d_sae), generator=rng).float()
        b_enc = -torch.randint(1, 64, (d_sae,), generator=rng) / 8
        b_enc[-1] = -1e6
        W_dec = torch.randn(d_sae, d_in, generator=rng)
        W_dec[-2] = 0
        W_enc[0, 0] += damage
        folder = tmp_path / f"v{seed}" / "seed-0"
        params = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": torch.zeros(d_in)}
        names = saelens.write(folder / "sae", ReLU(d_sae=d_sae), params, {"hook_name": HOOK})
        files = artifact.digest_files(folder, [f"sae/{name}" for name in names])
        artifact.rewrite_manifest(folder, [{"kind": "run", "files": files}])
        fingerprint = artifact.commit(folder)
        config = TrainConfig.parse({"cache": "c", "hook": HOOK, "sae": {"name": "relu", "d_sae": d_sae}, "steps": 1})
        return Run(folder, fingerprint, "id", config, cache, HOOK, f"v{seed}", 0)

    return make


@pytest.fixture
def build(world: World, tmp_path: Path) -> Callable[..., list[FeatureStore]]:
    """Returns a builder of the stores of some runs, all in one pass."""

    def make(
        runs: Sequence[Run], world: World = world, progress: Progress | None = None, out: str = "", **settings: Any
    ) -> list[FeatureStore]:
        def no_model() -> Any:
            raise MachineError("there is no model")

        kept_work = KeptWork(tmp_path / "artifacts", {})
        testbed = Testbed(world.cache, HOOK, no_model, kept_work, 4, torch.device("cpu"))
        features = Features.parse(SETTINGS | settings)
        folders = [tmp_path / out / run.variant / "features" if out else run.path / "features" for run in runs]
        jobs = [
            StoreJob(run, testbed, features, folder, folder.parent) for run, folder in zip(runs, folders, strict=True)
        ]
        build_stores(jobs, progress or Silent())
        assert all(job.done for job in jobs)
        return [FeatureStore.open(folder) for folder in folders]

    return make


@pytest.fixture
def acts_of() -> Callable[[Run, np.ndarray], np.ndarray]:
    """Returns a function that encodes x: acts (num_contexts, context_size, d_sae), NaN where x is NaN."""

    def encode(run: Run, x: np.ndarray) -> np.ndarray:
        present = ~np.isnan(x[..., 0])
        sae = load(run)
        acts = np.full((*x.shape[:2], sae.d_sae), np.nan, np.float32)
        acts[present] = sae.encode(torch.from_numpy(x[present])).numpy()
        return acts

    return encode

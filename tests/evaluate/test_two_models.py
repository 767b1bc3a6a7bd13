"""Crosscoders of two models: read from two caches of the same tokens, each spliced into its own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.paired_cache import PairedCache
from saepipe.data.errors import ConfigError
from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.model.run_cache import cache_of
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.plan import plan_jobs
from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.use.finished_run import open_run
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.plan import Planned, plan_runs
from saepipe.train.run import train

HOOK, OTHER = "blocks.1.hook_resid_post", "other:blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, toy_config: HarvestConfig) -> tuple[Path, Path]:
    """Returns caches of the toy and of the toy with noise in one layer, of the same text."""
    folder = tmp_path_factory.mktemp("two models")
    model, rng = AutoModelForCausalLM.from_pretrained(MODEL_DIR), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layers.1." in name and value.dim() == 2:
                value.add_(0.3 * value.std() * torch.randn(value.shape, generator=rng))
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(MODEL_DIR).save_pretrained(folder / "model")
    settings = toy_config.to_dict() | {"hooks": [HOOK], "num_tokens": 4096, "heldout_tokens": 1200}
    settings["dataset"] = {**settings["dataset"], "source": "toy"}
    for cache, source in (("base", "toy"), ("tuned", str(folder / "model"))):
        changed = {**settings, "model": {**settings["model"], "model": source}}
        harvest(HarvestConfig.parse(changed), folder / cache)
    return folder / "base", folder / "tuned"


@pytest.fixture(scope="module")
def runs(caches: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns a crosscoder of both models, and an SAE of each."""
    base, tuned = map(str, caches)
    lenient = {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}
    sae = {"name": "batch_topk", "d_sae": 48, "k": 6}
    config = {"cache": base, "sae": sae, "steps": 60, "batch_size": 256, "health": lenient}
    both = {"name": "both", "hooks": [HOOK], "other_cache": tuned}
    variants = [both, {"name": "base", "hook": HOOK}, {"name": "tuned", "hook": HOOK, "cache": tuned}]
    return train({**config, "variants": variants}, tmp_path_factory.mktemp("runs"))


def test_rows_of_both_models_are_side_by_side(caches: tuple[Path, Path], runs: list[Path]) -> None:
    own, other = map(Cache.open, caches)
    run = open_run(runs[0])
    assert run.hook == f"{HOOK} + {OTHER}"
    cache = cache_of(run)
    assert isinstance(cache, PairedCache)
    assert cache.hooks == (HOOK, OTHER)
    assert cache.fingerprint == own.fingerprint == run.cache_fingerprint
    for hook, single in ((HOOK, own), (OTHER, other)):
        assert torch.equal(cache.acts(hook)[:50], single.acts(HOOK)[:50])
        assert torch.equal(cache.heldout.activations(hook, 0, 2), single.heldout.activations(HOOK, 0, 2))
        assert cache.stats(hook).mean_square_norm == single.stats(HOOK).mean_square_norm
    assert not torch.equal(own.acts(HOOK)[:50], other.acts(HOOK)[:50])


def test_each_half_is_spliced_into_its_own_model(runs: list[Path]) -> None:
    evaluate(runs, {"metrics": [{"name": "core"}, {"name": "geometry"}], "features": None, "batch_size": 4})
    block = read(runs[0] / "eval" / "core.json")["saepipe"]
    alone = [open_run(run).metrics["core"] for run in runs[1:]]
    assert [*block["hooks"]] == [HOOK, OTHER]
    for figures, model in zip(block["hooks"].values(), alone, strict=True):
        assert figures["ce_loss_without_sae"][0] == pytest.approx(model["ce_loss_without_sae"].value, abs=1e-5)
    losses = [figures["ce_loss_without_sae"][0] for figures in block["hooks"].values()]
    assert abs(losses[0] - losses[1]) > 5e-4
    assert set(block["decoder_norms"]["exclusive"]) == {HOOK, OTHER}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": [{"name": "absorption"}]}, "absorption: it runs texts through one model"),
        ({"metrics": [{"name": "core"}], "activations": "live"}, "reads the caches of two models"),
        ({"metrics": [{"name": "core"}], "mode": "reference"}, "is a crosscoder, of which SAEBench has no metrics"),
    ],
)
def test_what_needs_one_model_is_refused(runs: list[Path], changes: dict[str, Any], message: str) -> None:
    config = EvaluateConfig.parse(changes)
    with pytest.raises(ConfigError, match=message):
        plan_jobs(runs[0], config, None, Testbeds(config, Passes()), print)


def test_caches_of_other_tokens_are_refused(caches: tuple[Path, Path], toy_cache: Path) -> None:
    with pytest.raises(ConfigError, match="do not hold the same tokens in the same order"):
        PairedCache.of(Cache.open(caches[0]), Cache.open(toy_cache))
    config = {"cache": str(caches[0]), "other_cache": str(caches[1]), "sae": {"name": "relu", "d_sae": 8}, "steps": 1}
    with pytest.raises(ConfigError, match="other_cache needs `hooks`"):
        train({**config, "hook": HOOK}, "unused")


def test_the_other_cache_is_part_of_the_id_and_its_path_is_not(caches: tuple[Path, Path], tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(caches[1])
    raw = {"cache": str(caches[0]), "hooks": [HOOK], "sae": {"name": "relu", "d_sae": 8}, "steps": 1}

    def planned(first: Path, other: Path, **more: Any) -> Planned:
        return plan_runs(TrainConfig.parse({**raw, "cache": str(first), "other_cache": str(other), **more}), tmp_path)[
            0
        ]

    base, tuned = caches
    first, second = planned(base, tuned), planned(base, moved)
    assert first.run_id == second.run_id != planned(tuned, base).run_id
    assert first.recipe.config.other_fingerprint == Cache.open(tuned).fingerprint
    with pytest.raises(ConfigError, match="are the same cache"):
        planned(base, base)
    with pytest.raises(ConfigError, match="not other_fingerprint 00"):
        planned(base, tuned, other_fingerprint="00")

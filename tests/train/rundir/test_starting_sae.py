"""Trainings that start from the SAE of another run, trained or imported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.dictionaries import import_here
from helpers.killed_training import KillAfter, Killed
from helpers.made_caches import structured_rows, write_cache
from helpers.other_libraries import randn, write_trainer
from helpers.resealed import change_json
from saepipe.data.batches.first_batches import FirstBatches
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders.artifact import read_manifest
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.live_run import first_state
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.rundir.load import load
from saepipe.train.rundir.starting_sae import starting_params
from saepipe.train.step.state import initial_params

Make = Callable[..., TrainConfig]

SAES: dict[str, dict[str, Any]] = {
    "relu": {},
    "gated": {},
    "jumprelu": {"initial_threshold": 0.3},
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "matryoshka_batch_topk": {"k": 4},
}
MODEL = {"lm_name": "someone/Made Up"}  # the last part is the model name in the tiny cache


@pytest.fixture
def on_from(config: Make) -> Make:
    """A config that starts from a run, with the architecture's own settings."""

    def make(source: Path | str, name: str = "relu", **changes: Any) -> TrainConfig:
        sae = {"name": name, "d_sae": 40, **SAES[name]}
        penalties = [{"name": "l1", "weight": 0.3}] if name in ("relu", "gated", "jumprelu") else []
        settings = {"sae": sae, "penalties": penalties, "init": {"from": str(source)}, "log_every": 1}
        return config(**(settings | changes))

    return make


@pytest.fixture
def source_of(config: Make, tmp_path: Path) -> Callable[..., Path]:
    """Trains a run from scratch."""

    def make(name: str = "relu", out: str = "source", **changes: Any) -> Path:
        sae = {"name": name, "d_sae": 40, **SAES[name]}
        penalties = [{"name": "l1", "weight": 0.3}] if name in ("relu", "gated", "jumprelu") else []
        return train(config(**({"sae": sae, "penalties": penalties} | changes)), tmp_path / out)[0]

    return make


def first_batch(config: TrainConfig) -> Tensor:
    cache = Cache.open(config.cache)
    with BatchStream(cache, cache.hooks[0], config.batch_size, config.data_seed, device=torch.device("cpu")) as stream:
        return next(iter(stream.batches())).float()


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(run / "sae/sae_weights.safetensors").items()}


def run_id(run: Path) -> str:
    return str(read_manifest(run)[0]["run_id"])


@pytest.mark.parametrize("name", ["jumprelu", "relu", "topk"])
def test_the_first_loss_is_the_error_of_the_sae_that_it_starts_from(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    source = source_of(name)
    (run,) = train(on_from(source, name), tmp_path / "on")
    (planned,) = plan_runs(on_from(source, name), tmp_path)
    x = first_batch(planned.recipe.config)
    error = planned.recipe.scale**2 * (x - load(source)(x)).square().sum(1).mean()
    assert lines(run)[0]["terms"]["reconstruction"]["value"] == pytest.approx(float(error), rel=1e-5)
    assert lines(run)[-1]["loss"] < lines(run)[0]["loss"]
    assert weights(run) != weights(source)


@pytest.mark.parametrize("name", sorted(SAES))
def test_it_starts_with_the_parameters_of_the_sae(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """On its own scale, in the layout of a fresh start; all else is as at a fresh start."""
    source = source_of(name)
    (planned,) = plan_runs(on_from(source, name), tmp_path)
    state = first_state(planned.recipe, None)  # type: ignore[arg-type]  # no rows are read
    params = {key: value.detach() for key, value in state.all_params.items()}
    sae, saved = planned.recipe.config.sae.inference(params)
    theirs = load(source)
    assert sae.name == theirs.architecture
    expected = dict(theirs.named_parameters())
    actual = sae.unscaled(saved, planned.recipe.scale)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value.detach(), rtol=1e-6, atol=1e-7)
    assert torch.equal(params["W_dec"], theirs.W_dec)
    assert params["W_enc"].stride() == params["W_dec"].T.stride()
    assert (state.step, int(state.tokens_since_fired.sum())) == (0, 0)
    assert all(not value.any() for moments in state.moments.values() for value in moments.values())
    if "threshold" in params:
        assert (
            params["threshold"].shape == planned.recipe.config.sae.init(24, 1.0, torch.Generator())["threshold"].shape
        )
        assert float(params["threshold"].max()) > 0


@pytest.mark.parametrize("name", sorted(SAES))
def test_an_sae_is_widened_by_latents_of_a_fresh_start(
    on_from: Make, source_of: Callable[..., Path], config: Make, tmp_path: Path, name: str
) -> None:
    source, sae = source_of(name), {"name": name, "d_sae": 46, **SAES[name]}
    (planned,) = plan_runs(on_from(source, name, sae=sae), tmp_path)
    (whole,) = plan_runs(on_from(source, name), tmp_path)
    start, old, fresh = starting_params(planned.recipe), starting_params(whole.recipe), initial_params(planned.recipe)
    assert start["W_dec"].shape == (46, 24)
    latents = {"W_enc": start["W_enc"].T, "W_dec": start["W_dec"], "b_enc": start["b_enc"]}
    for key, value in latents.items():
        ours, theirs, new = value, *(each[key].T if key == "W_enc" else each[key] for each in (old, fresh))
        assert torch.equal(ours[:40], theirs)
        assert torch.equal(ours[40:], new[40:])
    assert torch.equal(start["b_dec"], old["b_dec"])
    assert planned.recipe.config.run_id("c") != whole.recipe.config.run_id("c")
    (run,) = train(on_from(source, name, sae=sae), tmp_path / "wide")
    assert load(run).d_sae == 46


def test_the_sae_counts_by_its_weights_not_by_its_place(
    on_from: Make, source_of: Callable[..., Path], config: Make, tmp_path: Path
) -> None:
    source, other = source_of(), source_of(out="other", seed=1)
    moved = shutil.copytree(source, tmp_path / "moved")
    (plain,) = train(config(), tmp_path / "plain")
    runs = [train(on_from(path, log_every=5), tmp_path / f"on {path.parts[-3]}")[0] for path in (source, other, moved)]
    ids = list(map(run_id, runs))
    assert ids[0] == ids[2]
    assert len({run_id(plain), *ids}) == 3
    assert weights(runs[0]) == weights(runs[2]) != weights(runs[1])
    stored = TrainConfig.load(runs[0] / "config.yaml")
    assert stored.init.source == source
    assert stored.init.weights is not None
    again = train(stored.model_copy(update={"variants": on_from(source).variants}), tmp_path / "again")
    assert run_id(again[0]) == ids[0]


def test_a_config_without_a_start_has_the_identity_of_earlier_versions(config: Make) -> None:
    assert config().identity()["init"] == {"b_dec": "geometric_median", "b_dec_rows": 200, "encoder_scale": 0.25}


def test_variants_and_seeds_start_from_saes_of_their_own(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path
) -> None:
    for seed in (0, 1):
        source_of(seed=seed, out="sources", variants=[{"name": "a"}])
        source_of(seed=seed, out="sources", variants=[{"name": "b", "optimizer.lr": 1e-2}])
    starts = [{"name": name, "init.from": str(tmp_path / "sources" / name / "seed-{seed}")} for name in "ab"]
    planned = plan_runs(on_from("x", init={}, variants=starts, seeds=[0, 1]), tmp_path / "runs")
    assert [run.recipe.config.init.source for run in planned] == [
        tmp_path / "sources" / name / f"seed-{seed}" for name in "ab" for seed in (0, 1)
    ]
    assert len({run.run_id for run in planned}) == 4
    runs = train(on_from("x", init={}, variants=starts, seeds=[0, 1]), tmp_path / "runs")
    assert len({lines(run)[0]["loss"] for run in runs}) == 4


def test_stacked_runs_start_from_saes_of_their_own(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path
) -> None:
    sources = [source_of(out="a"), source_of(out="b", seed=1)]
    starts = [{"name": f"on {path.parts[-3]}", "init.from": str(path)} for path in sources]
    exact, stacked = (
        train(on_from("x", init={}, variants=starts, exact=alone), tmp_path / f"exact {alone}")
        for alone in (True, False)
    )
    for run, twin in zip(stacked, exact, strict=True):
        assert read_manifest(run)[0]["stacked"] == 2
        torch.testing.assert_close(load(run)(x := randn(50, 24)), load(twin)(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("after", [3, 12])
def test_a_killed_run_is_resumed_bit_for_bit(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path, after: int
) -> None:
    """Before its first checkpoint, and after it."""
    source = source_of("batch_topk")
    config = on_from(source, "batch_topk")
    (whole,) = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "parts", progress=KillAfter(after))
    (resumed,) = train(config, tmp_path / "parts", resume="must")
    assert weights(resumed) == weights(whole)
    assert run_id(resumed) == run_id(whole)


@pytest.mark.parametrize(("kind", "name"), [("AutoEncoderTopK", "topk"), ("BatchTopKSAE", "batch_topk")])
def test_an_imported_sae(on_from: Make, tiny_cache: Path, tmp_path: Path, kind: str, name: str) -> None:
    """Its decoder rows have unit norm; a batch_topk takes the one threshold of the jumprelu that it was imported as."""
    raw = randn(24, 40, seed=2)
    unit = {"decoder.weight": raw / raw.norm(dim=0)}
    source = import_here(
        write_trainer(tmp_path / "ae", kind, unit, **MODEL), "dictionary_learning", tiny_cache, tmp_path / "i"
    )
    sae = {"name": name, "d_sae": 40, "k": 6}
    (run,) = train(on_from(source, name, sae=sae), tmp_path / "runs")
    (planned,) = plan_runs(on_from(source, name, sae=sae), tmp_path)
    state = first_state(planned.recipe, None)  # type: ignore[arg-type]
    x = first_batch(planned.recipe.config)
    x_hat = planned.recipe.config.sae.decode(
        state.all_params, planned.recipe.config.sae.encode(state.all_params, planned.recipe.scaled(x))
    )
    torch.testing.assert_close(x_hat.detach() / planned.recipe.scale, load(source)(x), rtol=1e-4, atol=1e-4)
    assert lines(run)[-1]["step"] == 20


@pytest.mark.parametrize(("kind", "name"), [("JumpReluAutoEncoder", "jumprelu"), ("GatedAutoEncoder", "gated")])
def test_decoder_rows_become_unit_where_the_function_stays(
    on_from: Make, tiny_cache: Path, tmp_path: Path, kind: str, name: str
) -> None:
    source = import_here(
        write_trainer(tmp_path / "ae", kind, **MODEL), "dictionary_learning", tiny_cache, tmp_path / "i"
    )
    (planned,) = plan_runs(on_from(source, name), tmp_path)
    params = first_state(planned.recipe, None).all_params  # type: ignore[arg-type]
    torch.testing.assert_close(params["W_dec"].norm(dim=1), torch.ones(40))
    x, recipe = first_batch(planned.recipe.config), planned.recipe
    x_hat = recipe.config.sae.decode(params, recipe.config.sae.encode(params, recipe.scaled(x)))
    torch.testing.assert_close(x_hat.detach() / recipe.scale, load(source)(x), rtol=1e-4, atol=1e-3)


def test_a_topk_with_other_rows_is_refused(on_from: Make, tiny_cache: Path, tmp_path: Path) -> None:
    folder = write_trainer(tmp_path / "ae", "AutoEncoderTopK", **MODEL)
    source = import_here(folder, "dictionary_learning", tiny_cache, tmp_path / "i")
    with pytest.raises(ConfigError, match="has decoder rows of norm .* a topk would choose other latents"):
        train(on_from(source, "topk"), tmp_path / "runs")
    zero = torch.zeros(24, 40)
    folder = write_trainer(tmp_path / "zero", "JumpReluAutoEncoder", {"W_dec": zero.T.contiguous()}, **MODEL)
    source = import_here(folder, "dictionary_learning", tiny_cache, tmp_path / "z")
    with pytest.raises(ConfigError, match="has 40 latents whose decoder row is zero"):
        train(on_from(source, "jumprelu"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "topk"}, "holds a relu, not a topk\n  hint: set `sae.name`"),
        ({"name": "batch_topk"}, "holds a relu, not a batch_topk"),
        ({"sae": {"name": "relu", "d_sae": 39}}, "has 40 latents, more than 39"),
        ({"init": {"b_dec": "mean"}}, "b_dec has no effect with `from`"),
        ({"init": {"weights": "0" * 16}}, "not 0000000000000000 \\(init.weights\\)"),
    ],
)
def test_an_sae_that_does_not_fit_is_refused(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    source = source_of()
    init = {"from": str(source)} | changes.pop("init", {})
    with pytest.raises(ConfigError, match=words):
        train(on_from(source, **changes, init=init), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_jumprelu_with_several_thresholds_is_no_batch_topk(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds a jumprelu with a threshold for each latent, not a batch_topk"):
        train(on_from(source_of("jumprelu"), "batch_topk"), tmp_path / "runs")
    (run,) = train(on_from(source_of("batch_topk", out="one"), "jumprelu"), tmp_path / "runs")
    assert load(run).architecture == "jumprelu"


def test_no_run_an_unfinished_one_and_another_hook(
    on_from: Make, source_of: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="nothing holds no run\n  hint: give a run's folder"):
        train(on_from(tmp_path / "nothing"), tmp_path / "runs")
    source = source_of()
    hooks = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]
    cache = write_cache(tmp_path / "cache", {hook: structured_rows(600, 24) for hook in hooks})
    (there,) = train(on_from("x", init={}, cache=str(cache), hook=hooks[1]), tmp_path / "there")
    with pytest.raises(ConfigError, match=f"has the hook {hooks[1]}, not {hooks[0]}"):
        train(on_from(there, cache=str(cache), hook=hooks[0]), tmp_path / "runs")
    (source / "COMMITTED").unlink()
    with pytest.raises(CorruptDataError, match="is not finished"):
        train(on_from(source), tmp_path / "runs")
    with pytest.raises(ConfigError, match="model is about the SAE in `from`, which is not given"):
        on_from("x", init={"model": "gemma"})


def test_an_sae_of_another_model_must_be_meant(on_from: Make, source_of: Callable[..., Path], tmp_path: Path) -> None:
    source = source_of()
    change_json(source, "sae/cfg.json", lambda cfg: cfg["metadata"].update(model_name="google/gemma-2-2b"))
    with pytest.raises(
        ConfigError, match="was trained on google/gemma-2-2b, .*\n  hint: set init.model to google/gemma"
    ):
        train(on_from(source), tmp_path / "runs")
    (run,) = train(on_from(source, init={"from": str(source), "model": "gemma-2-2b"}), tmp_path / "runs")
    assert run_id(run) == run_id(train(on_from(source_of(out="same")), tmp_path / "named")[0])


def test_a_source_that_changes_or_goes(on_from: Make, source_of: Callable[..., Path], tmp_path: Path) -> None:
    """Gone before the first step it is an error; gone later, the run ends, and says what could not be checked."""
    source = source_of()
    (planned,) = plan_runs(on_from(source), tmp_path)
    file = source / "sae" / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CorruptDataError, match="no longer holds the weights"):
        first_state(planned.recipe, None)  # type: ignore[arg-type]

    class Removes(Silent):
        def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
            shutil.rmtree(other, ignore_errors=True)

    other = source_of(out="other")
    train(on_from(other), tmp_path / "runs", progress=(progress := Removes()))
    assert any("H8 does not apply" in sentence for sentence in progress.said)


@pytest.fixture(scope="session")
def mlp_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of an MLP's input, of width 24 and far from 0, and of its output, of width 20."""
    x = structured_rows(2000, 24) + 3
    y = (x.float() @ randn(24, 20, seed=5, scale=0.05)).bfloat16()
    rows = {"blocks.1.hook_mlp_in": x, "blocks.1.hook_mlp_out": y}
    return write_cache(tmp_path_factory.mktemp("mlp") / "cache", rows)


@pytest.mark.parametrize(("name", "skip"), [("batch_topk", True), ("relu", False), ("topk", True)])
def test_a_transcoder_starts_from_a_transcoder(
    on_from: Make, source_of: Callable[..., Path], mlp_cache: Path, tmp_path: Path, name: str, skip: bool
) -> None:
    """On both scales; b_in, which the files do not keep, is again the centre of the first rows."""
    hooks = {"cache": str(mlp_cache), "hook": "blocks.1.hook_mlp_in", "target": "blocks.1.hook_mlp_out", "skip": skip}
    source = source_of(name, **hooks)
    config = on_from(source, name, **hooks)
    (planned,) = plan_runs(config, tmp_path)
    recipe, cache = planned.recipe, Cache.open(mlp_cache)
    with BatchStream(cache, recipe.config.read_hooks, 17, 0, device=torch.device("cpu")) as stream:
        rows = next(iter(stream.batches())).float()
        state = first_state(recipe, FirstBatches(stream))
    x, params = recipe.scaled(rows)[:, :24], {key: value.detach() for key, value in state.all_params.items()}
    assert float(params["b_in"].norm()) > 1
    sae = recipe.config.sae
    y_hat = sae.decode(params, sae.encode(params, x))
    if skip:
        y_hat = y_hat + (x - params["b_in"]) @ params["W_skip"]
    assert recipe.target is not None
    torch.testing.assert_close(y_hat / recipe.target.scale, load(source)(rows[:, :24]), rtol=1e-4, atol=1e-3)
    (whole,) = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "parts", progress=KillAfter(12))
    assert weights(train(config, tmp_path / "parts", resume="must")[0]) == weights(whole)


def test_a_transcoder_that_does_not_fit_is_refused(
    on_from: Make, source_of: Callable[..., Path], mlp_cache: Path, tmp_path: Path
) -> None:
    """A skip may be added, at 0, but not left out; an SAE is no transcoder."""
    hooks = {"cache": str(mlp_cache), "hook": "blocks.1.hook_mlp_in", "target": "blocks.1.hook_mlp_out"}
    plain, with_skip = source_of(out="plain", **hooks), source_of(out="with skip", **hooks, skip=True)
    (planned,) = plan_runs(on_from(plain, **hooks, skip=True), tmp_path)
    assert not starting_params(planned.recipe)["W_skip"].any()
    with pytest.raises(ConfigError, match="holds a transcoder with a skip\n  hint: set `skip: true`"):
        train(on_from(with_skip, **hooks), tmp_path / "runs")
    sae = source_of(out="sae", cache=str(mlp_cache), hook="blocks.1.hook_mlp_in")
    with pytest.raises(ConfigError, match="is an SAE"):
        train(on_from(sae, **hooks), tmp_path / "runs")
    with pytest.raises(ConfigError, match="is a transcoder to blocks.1.hook_mlp_out"):
        train(on_from(plain, cache=str(mlp_cache), hook="blocks.1.hook_mlp_in"), tmp_path / "runs")


@pytest.mark.parametrize("name", ["jumprelu", "relu", "topk"])
def test_a_crosscoder_starts_from_a_crosscoder(
    on_from: Make, source_of: Callable[..., Path], mlp_cache: Path, tmp_path: Path, name: str
) -> None:
    """Each hook on its own scale, on which rows of its decoder have unit norm, as they do not in raw units."""
    hooks = {"cache": str(mlp_cache), "hooks": ["blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"], "penalties": []}
    source = source_of(name, **hooks)
    assert (load(source).W_dec.norm(dim=1) - 1).abs().max() > 0.01
    (planned,) = plan_runs(on_from(source, name, **hooks), tmp_path)
    recipe = planned.recipe
    with BatchStream(Cache.open(mlp_cache), recipe.config.read_hooks, 17, 0, device=torch.device("cpu")) as stream:
        rows = next(iter(stream.batches())).float()
        params = {key: value.detach() for key, value in first_state(recipe, FirstBatches(stream)).all_params.items()}
    torch.testing.assert_close(params["W_dec"].norm(dim=1), torch.ones(40), rtol=1e-5, atol=1e-5)
    x = recipe.scaled(rows)
    x_hat = recipe.config.sae.decode(params, recipe.config.sae.encode(params, x))
    torch.testing.assert_close(x_hat, recipe.scaled(load(source)(rows)), rtol=1e-4, atol=1e-3)
    (run,) = train(on_from(source, name, **hooks), tmp_path / "runs")
    assert lines(run)[-1]["loss"] < lines(run)[0]["loss"]
    with pytest.raises(ConfigError, match=r"reads blocks\.1\.hook_mlp_in \+ blocks\.1\.hook_mlp_out, not"):
        train(on_from(source, name, **(hooks | {"hooks": [], "hook": "blocks.1.hook_mlp_in"})), tmp_path / "sae")

"""Transcoders: their numbers by the definition, their units, and whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.killed_training import KillAfter, Killed
from helpers.made_caches import structured_rows, write_cache
from saepipe.data.batches.first_batches import FirstBatches
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.live_run import first_state
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.transcoder import center_folded, in_raw_units, skipped, transcoder_params
from saepipe.train.seeds import generator
from saepipe.train.stacked.stack import Stack, why_not_stackable
from saepipe.train.step.dead import resample
from saepipe.train.step.init import geometric_median
from saepipe.train.step.state import Recipe, Target, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step

X, Y = "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"
D_IN, D_OUT, D_SAE, BATCH = 24, 20, 40, 17
UNTIED = sorted(name for name, member in Architecture.members.items() if not member.tied)
K: dict[str, dict[str, Any]] = {name: {"k": 4} for name in ("topk", "batch_topk", "matryoshka_batch_topk")}
CPU = torch.device("cpu")

Make = Callable[..., TrainConfig]
TOPK = {"name": "topk", "d_sae": 40, "k": 4}
SPARSE = ("batch_topk", "gated", "jumprelu", "matryoshka_batch_topk", "relu", "topk")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns 2,000 rows at two hooks, y a linear map of x and something else."""
    x = structured_rows(2000, D_IN)
    W = torch.randn(D_IN, D_OUT, generator=torch.Generator().manual_seed(5)) / D_IN**0.5
    y = 3 * (x.float() @ W + (x.float() @ W).relu()).bfloat16()
    return write_cache(tmp_path_factory.mktemp("two") / "cache", {X: x, Y: y})


@pytest.fixture
def make(cache: Path, config: Make) -> Make:
    """A config of 20 steps of a transcoder; arguments replace its keys."""
    return lambda **changes: config(**{"cache": str(cache), "hook": X, "target": Y, **changes})


def sae_of(name: str) -> Architecture:
    sae = Architecture.member(name).parse({"name": name, "d_sae": D_SAE, **K.get(name, {})})
    assert isinstance(sae, Architecture)
    return sae


def random_params(sae: Architecture, *, skip: bool) -> Params:
    """Returns parameters of a transcoder of which none is 0; thresholds are positive."""
    rng = torch.Generator().manual_seed(1)
    params = transcoder_params(sae.init(D_OUT, 0.5, rng), D_IN, 0.5, rng, skip=skip)
    moved = {name: value + 0.1 * torch.randn(value.shape, generator=rng) for name, value in params.items()}
    return {**moved, **{name: moved[name].abs() for name in ("threshold",) if name in moved}}


def reconstructed(sae: Architecture, params: Params, x: Tensor) -> Tensor:
    y_hat, skip = sae.decode(params, sae.encode(params, x)), skipped(params, x)
    return y_hat if skip is None else y_hat + skip


@pytest.fixture
def x() -> Tensor:
    return torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("name", UNTIED)
def test_raw_units_and_a_folded_center_leave_the_function_as_it_is(name: str, skip: bool, x: Tensor) -> None:
    sae, params = sae_of(name).inference(random_params(sae_of(name), skip=skip))
    scale, target_scale = 0.3, 7.0
    raw = in_raw_units(sae, params, scale, target_scale)
    torch.testing.assert_close(
        target_scale * reconstructed(sae, raw, x / scale), reconstructed(sae, params, x), rtol=1e-4, atol=1e-5
    )
    # Activations are in the units of y, since decoder rows keep their norm.
    assert torch.equal(raw["W_dec"], params["W_dec"])
    acts = sae.encode(params, x)
    torch.testing.assert_close(target_scale * sae.encode(raw, x / scale), acts, rtol=1e-4, atol=1e-5)
    folded = center_folded(params)
    assert not folded["b_in"].any()
    torch.testing.assert_close(sae.encode(folded, x), acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reconstructed(sae, folded, x), reconstructed(sae, params, x), rtol=1e-4, atol=1e-5)


def test_the_loss_and_its_gradients_are_those_of_the_definition(make: Make) -> None:
    recipe, state, rows = started(make(sae={"name": "relu", "d_sae": D_SAE}, skip=True, penalties=[]))
    with torch.no_grad():
        for value in state.params.values():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(3)))
    loss = step_loss(recipe, state, recipe.scaled(rows))
    gradients = dict(zip(state.params, loss.gradients(state.params), strict=True))

    exact = {name: value.detach().double().requires_grad_() for name, value in state.params.items()}
    x, y = recipe.scale * rows[:, :D_IN].double(), recipe.target.scale * rows[:, D_IN:].double()  # type: ignore[union-attr]
    centered = x - state.buffers["b_in"].double()
    acts = (centered @ exact["W_enc"] + exact["b_enc"]).relu()
    y_hat = acts @ exact["W_dec"] + exact["b_dec"] + centered @ exact["W_skip"]
    total = (y - y_hat).square().sum(1).mean()
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-5)
    expected = torch.autograd.grad(total, list(exact.values()))
    for (name, gradient), wanted in zip(gradients.items(), expected, strict=True):
        torch.testing.assert_close(
            gradient.double(), wanted, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def started(config: TrainConfig) -> tuple[Recipe, TrainState, Tensor]:
    """Returns the recipe and the first state of a run, and a batch of rows."""
    (planned,) = plan_runs(config, Path("unused"))
    rows = torch.cat([planned.cache.acts(hook)[:BATCH] for hook in (X, Y)], dim=1).float()
    return planned.recipe, fresh_state(planned.recipe, initial_params(planned.recipe)), rows


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_steps_are_dense_ones(make: Make, name: str) -> None:
    sae = {"name": name, "d_sae": D_SAE, **K.get(name, {})}
    ends = []
    for sparse_steps in ("never", "always"):
        settings = make(sae=sae, skip=True, sparse_steps=sparse_steps, screen="never", penalties=[{"name": "auxk"}])
        recipe, state, rows = started(settings)
        for _ in range(10):
            train_step(recipe, state, rows)
        ends.append(state.params)
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-3, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("freeze", ["decoder", "encoder", "soft_decoder"])
def test_a_part_of_a_transcoder_can_be_frozen(make: Make, tmp_path: Path, freeze: str) -> None:
    """Its encoder has another width than its decoder; the skip is trained beside it."""
    settings = make(sae=TOPK, penalties=[], skip=True, freeze=freeze)
    (planned,), (run,) = plan_runs(settings, tmp_path), train(settings, tmp_path)
    before, after = initial_params(planned.recipe), load(run)
    moved = after.W_enc * planned.recipe.target.scale / planned.recipe.scale - before["W_enc"]  # type: ignore[union-attr]
    assert (moved.abs().max() < 1e-6) == (freeze == "encoder")
    assert torch.equal(after.W_dec, before["W_dec"]) == (freeze == "decoder")
    assert after.W_skip is not None
    assert after.W_skip.any()


def test_the_skip_learns_as_by_adamw_at_its_own_rate(make: Make) -> None:
    optimizer = {"lr": 1e-2, "warmup": 0, "decay": 0, "clip": None}
    settings = make(skip={"lr": 0.5, "weight_decay": 0.2}, optimizer=optimizer, penalties=[])
    recipe, state, rows = started(settings)
    with torch.no_grad():
        state.params["W_skip"].add_(0.3)
    skip = state.params["W_skip"].detach().clone().requires_grad_()
    adamw = torch.optim.AdamW([skip], lr=0.5 * 1e-2, weight_decay=0.2)
    for _ in range(5):
        loss = step_loss(recipe, state, recipe.scaled(rows))
        skip.grad = dict(zip(state.params, loss.gradients(state.params), strict=True))["W_skip"].clone()
        adamw.step()
        train_step(recipe, state, rows)
    torch.testing.assert_close(state.params["W_skip"].detach(), skip.detach(), rtol=1e-5, atol=1e-7)


def test_both_biases_begin_at_centers(make: Make, cache: Path) -> None:
    recipe, _, _ = started(make(init={"b_dec_rows": 2000}))
    with BatchStream(Cache.open(cache), (X, Y), 500, 0) as stream:
        params = first_state(recipe, FirstBatches(stream)).all_params
    x, y = (Cache.open(cache).acts(hook)[:].float() for hook in (X, Y))
    assert recipe.target is not None
    torch.testing.assert_close(params["b_in"], geometric_median(recipe.scale * x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(params["b_dec"].data, geometric_median(recipe.target.scale * y), rtol=1e-3, atol=1e-4)


def test_resampled_latents_read_a_token_and_write_its_target(make: Make) -> None:
    recipe, state, rows = started(make(dead={"after_tokens": 1, "resample_steps": 10}, skip=True))
    state.tokens_since_fired[:3] = 10**6
    scaled = recipe.scaled(rows)
    assert resample(recipe, state, scaled) == 3
    x, y = (torch.nn.functional.normalize(part, dim=1) for part in scaled.split([D_IN, D_OUT], dim=1))
    read = torch.nn.functional.normalize(state.params["W_enc"].detach()[:, :3], dim=0)
    cosines, tokens = (x @ read).max(dim=0)
    torch.testing.assert_close(cosines, torch.ones(3))
    torch.testing.assert_close((y[tokens] * state.params["W_dec"].detach()[:3]).sum(1), torch.ones(3))


@pytest.mark.parametrize("name", UNTIED)
@pytest.mark.parametrize("skip", [False, True])
def test_the_saved_transcoder_is_the_trained_one(make: Make, tmp_path: Path, name: str, skip: bool) -> None:
    lenient = {"most_l0": 1.0, "least_variance": -1e9, "least_alive": 0.0}
    sae = {"name": name, "d_sae": D_SAE, **K.get(name, {})}
    (path,) = train(make(sae=sae, skip=skip, steps=60, penalties=[], health=lenient), tmp_path)
    loaded, run = load(path), open_run(path)
    assert (run.hook, run.target, run.sites) == (X, Y, f"{X} -> {Y}")
    assert (loaded.d_in, loaded.d_out, loaded.hook, loaded.target) == (D_IN, D_OUT, X, Y)
    cache = Cache.open(Path(str(run.cache)))
    x, y = (cache.acts(hook)[:].float() for hook in (X, Y))
    audited = json.loads((path / "health.json").read_text())["audit"]["sae"]
    explained = 1 - (y - loaded(x)).square().sum() / (y - y.mean(0)).square().sum()
    assert explained.item() == pytest.approx(audited["explained_variance"], abs=1e-3)
    assert (loaded.encode(x) > 0).sum(1).float().mean().item() == pytest.approx(audited["l0"], rel=1e-3)
    torch.testing.assert_close(loaded.decode_sparse(loaded.encode_sparse(x)), loaded.decode(loaded.encode(x)))


def test_a_killed_training_is_resumed_bit_for_bit(make: Make, tmp_path: Path) -> None:
    settings = make(
        skip={"weight_decay": 0.1}, variants=[{"name": "a"}, {"name": "b", "sae": sae_of("topk").to_dict()}]
    )
    uninterrupted = train(settings, tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        train(settings, tmp_path / "parts", progress=KillAfter(12))
    for run, twin in zip(train(settings, tmp_path / "parts", resume="must"), uninterrupted, strict=True):
        for name in ("sae/sae_weights.safetensors", "manifest.jsonl"):
            assert (run / name).read_bytes() == (twin / name).read_bytes()


def test_stacked_transcoders_end_where_they_end_alone(make: Make) -> None:
    recipes = [started(make(seed=seed, optimizer={"lr": lr}))[0] for seed, lr in enumerate((1e-3, 3e-3, 1e-2))]
    runs = [(recipe, fresh_state(recipe, initial_params(recipe))) for recipe in recipes]
    rows = started(make())[2]
    stack = Stack(runs)
    for _ in range(8):
        stack.step(recipes[0].scaled(rows))
    for recipe, state in runs:
        alone = fresh_state(recipe, initial_params(recipe))
        for _ in range(8):
            train_step(recipe, alone, rows)
        for name, value in state.all_params.items():
            torch.testing.assert_close(value, alone.all_params[name], rtol=1e-3, atol=1e-5)
    assert "skip" in str(why_not_stackable(started(make(skip=True))[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "blocks.1.hook_z"}, r"target 'blocks.1.hook_z' is not in the cache; .* has .*hook_mlp_in"),
        ({"target": X}, "hook and target are both"),
        ({"target": None, "skip": True}, "skip needs a target"),
    ],
)
def test_mistakes_are_named(make: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_runs(make(**changes), Path("unused"))


def test_ids_of_saes_are_those_of_versions_without_transcoders(make: Make) -> None:
    sae = make(target=None).identity()
    assert {"target", "skip"}.isdisjoint(sae)
    transcoders = [make().identity(), make(skip=True).resolved(hook=X, num_rows=1, device=CPU).identity()]
    assert [each["target"] for each in transcoders] == [Y, Y]
    assert "skip" not in transcoders[0]
    assert transcoders[1]["skip"] == {"lr": 1.0, "weight_decay": 0.0}


def test_the_encoder_begins_in_no_direction_of_the_decoder() -> None:
    sae, rng = sae_of("relu"), generator(0, "init")
    params = transcoder_params(sae.init(D_OUT, 0.25, rng), D_OUT, 0.25, rng, skip=False)
    cosines = (params["W_enc"].T * params["W_dec"]).sum(1) / 0.25
    assert cosines.abs().max() < 0.9
    torch.testing.assert_close(params["W_enc"].norm(dim=0), torch.full((D_SAE,), 0.25))


def test_rows_are_scaled_part_by_part() -> None:
    config = TrainConfig.parse({"cache": "c", "hook": X, "target": Y, "sae": sae_of("relu").to_dict(), "steps": 1})
    recipe = Recipe(config.resolved(hook=X, num_rows=1, device=CPU), 2, 3.0, CPU, Target(1, 5.0))
    rows = torch.tensor([[1.0, 2.0, 3.0]])
    assert recipe.scaled(rows).tolist() == [[3.0, 6.0, 15.0]]
    assert rows.tolist() == [[1.0, 2.0, 3.0]]

"""Stacked runs end where each ends alone, and every state can be used by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.data.errors import ConfigError
from saepipe.train.captured import runners
from saepipe.train.config import TrainConfig
from saepipe.train.rundir.checkpoint import last_checkpoint, load_checkpoint, save_checkpoint
from saepipe.train.stacked.stack import Stack
from saepipe.train.step.measure import sample_gradients
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
STEPS = 30
WEIGHTS = (0.1, 0.3, 1.0)
LRS = (1e-3, 1e-3, 1e-2)
L1 = {"name": "l1", "weight": 0.3, "warmup": 0.2}
STEERED = {"steer": "l0", "to": 5.0, "start": 0.3}
TOPK = {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}], "dead": {"after_tokens": 60}}
GRIDS: dict[str, list[dict[str, Any]]] = {
    "relu, weights": [{"penalties": [{"name": "l1", "weight": weight}]} for weight in WEIGHTS],
    "relu, schedules": [
        {"penalties": [{"name": "l1", "weight": {"start": 0.1, "end": end}, "warmup": 0.3}]} for end in WEIGHTS
    ],
    "topk with auxk, lr and its schedule": [
        {**TOPK, "optimizer": {"lr": lr, "warmup": warmup}} for lr, warmup in zip(LRS, (0.1, 0.1, 0.5), strict=True)
    ],
    "jumprelu, steered": [
        {"sae": {"name": "jumprelu", "d_sae": 40}, "penalties": [{"name": "l0", "weight": STEERED}]} for _ in WEIGHTS
    ],
    "batch_topk, a buffer": [{"sae": {"name": "batch_topk", "d_sae": 40, "k": 4}, "penalties": []} for _ in WEIGHTS],
    "a frozen decoder": [
        {"penalties": [L1, {"name": "ortsae", "weight": weight}], "freeze": "decoder"} for weight in WEIGHTS
    ],
    "a frozen encoder": [{**TOPK, "optimizer": {"lr": lr}, "freeze": "encoder"} for lr in LRS],
    "a soft-frozen decoder": [
        {**TOPK, "optimizer": {"lr": lr}, "freeze": "soft_decoder", "freeze_cosine": 0.99} for lr in LRS
    ],
    "two penalties with states, one that samples": [
        {"penalties": [L1, {"name": "c2r", "weight": weight}, {"name": "random_pairs", "weight": weight}]}
        for weight in WEIGHTS
    ],
}


def recipe_of(config: TrainConfig) -> Recipe:
    return Recipe(config.resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)


def fresh(recipe: Recipe) -> TrainState:
    return fresh_state(recipe, initial_params(recipe))


def batches(*shape: int) -> Tensor:
    """Returns random rows, (steps, *shape, batch, d_in)."""
    return torch.randn(STEPS, *shape, 17, 24, generator=torch.Generator().manual_seed(0))


def tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.all_params.items():
        yield name, value.detach()
    for name, own in state.moments.items():
        yield from ((f"{name}/{key}", value) for key, value in own.items())
    for label, own in state.states.items():
        yield from ((f"{label}/{key}", value) for key, value in own.items())
    yield from state.steered.items()
    yield "tokens_since_fired", state.tokens_since_fired
    yield "sums", state.sums


def assert_same(state: TrainState, other: TrainState, *, rtol: float = 1e-3, atol: float = 1e-5) -> None:
    assert (state.step, state.num_summed) == (other.step, other.num_summed)
    for (name, value), (other_name, expected) in zip(tensors(state), tensors(other), strict=True):
        assert name == other_name
        torch.testing.assert_close(value, expected, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("name", GRIDS)
def test_stacked_runs_equal_runs_alone(config: Make, name: str) -> None:
    """With one batch for all, or (half of the grids) one per run."""
    grid, own = GRIDS[name], list(GRIDS).index(name) % 2 == 0
    recipes = [recipe_of(config(steps=STEPS, seed=seed, **changes)) for seed, changes in enumerate(grid)]
    runs = [(recipe, fresh(recipe)) for recipe in recipes]
    together = Stack(runs)
    data = batches(len(grid)) if own else batches()
    for x in data:
        together.step(x)
    for number, (recipe, state) in enumerate(runs):
        alone = fresh(recipe)
        for x in data:
            train_step(recipe, alone, x[number] if own else x)
        assert_same(state, alone)
        assert state.step == STEPS
    distinct = {float(state.all_params["W_dec"].detach().sum()) for _, state in runs}
    assert len(distinct) == len(grid)


@pytest.mark.parametrize("name", GRIDS)
def test_captured_steps_have_the_bits_of_plain_ones(config: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace is launched operation by operation, in place of the compiler."""
    monkeypatch.setitem(runners.RUNNERS, "inductor", runners.interpreted)
    plain_steps = count_calls(monkeypatch, Stack, "_make")
    ends, said = [], list[str]()
    for compiler in ("never", "inductor"):
        changes = [{**each, "seed": seed, "compile": compiler} for seed, each in enumerate(GRIDS[name])]
        recipes = [recipe_of(config(steps=STEPS, **each)) for each in changes]
        runs = [(recipe, fresh(recipe)) for recipe in recipes]
        together = Stack(runs, said.append)
        for x in batches():
            together.step(x)
        ends.append([state for _, state in runs])
    assert said == []
    assert len(plain_steps) < STEPS + 10  # all of the first stack; of the second each kind's first, and those traced
    for plain, captured in zip(*ends, strict=True):
        assert_same(captured, plain, rtol=0, atol=0)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> list[None]:
    """Returns a list that grows by one with every call of a method."""
    calls: list[None] = []
    unchanged = getattr(owner, method)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return unchanged(*arguments, **named)

    monkeypatch.setattr(owner, method, counted)
    return calls


def test_a_state_is_a_slice_of_the_stack(config: Make, tmp_path: Path) -> None:
    """It is measured and saved as if it were alone; its checkpoint is resumed alone or in another stack."""
    recipes = [recipe_of(config(**TOPK, seed=seed)) for seed in range(2)]
    runs = [(recipe, fresh(recipe)) for recipe in recipes]
    together, data = Stack(runs), batches()
    for x in data[:10]:
        together.step(x)
    loaded = []
    for number, (recipe, state) in enumerate(runs):
        assert torch.equal(state.params["W_enc"], together.params["W_enc"][number])
        save_checkpoint(tmp_path / str(number), "id", state)
        path = last_checkpoint(tmp_path / str(number), "id")
        assert path is not None
        loaded.append(load_checkpoint(path, recipe))
        assert_same(loaded[-1], state, rtol=0, atol=0)
        figures, expected = (sample_gradients(each, step_loss(recipe, each, data[10])) for each in (state, loaded[-1]))
        assert figures == expected
    restacked = Stack(list(zip(recipes, loaded, strict=True)))
    for x in data[10:20]:
        together.step(x)
        restacked.step(x)
    for (recipe, state), resumed in zip(runs, loaded, strict=True):
        assert_same(resumed, state, rtol=0, atol=0)
        path = last_checkpoint(tmp_path / str(recipe.config.seed), "id")
        assert path is not None
        alone = load_checkpoint(path, recipe)
        for x in data[10:20]:
            train_step(recipe, alone, x)
        assert_same(state, alone)


def test_a_run_that_breaks_does_not_affect_the_others(config: Make) -> None:
    def trained(lr: float) -> TrainState:
        wild = {"optimizer": {"lr": lr, "clip": None, "warmup": 0}}
        recipes = [recipe_of(config(optimizer={"clip": None, "warmup": 0})), recipe_of(config(**wild, seed=1))]
        runs = [(recipe, fresh(recipe)) for recipe in recipes]
        together = Stack(runs)
        for x in batches()[:10]:
            together.step(x)
        assert bool(runs[1][1].params["W_enc"].isfinite().all()) == (lr < 1)
        return runs[0][1]

    assert_same(trained(1e38), trained(1e-3), rtol=0, atol=0)


def test_each_run_has_its_own_weight_and_share(config: Make) -> None:
    x = batches(len(WEIGHTS))[0]
    recipes = [recipe_of(config(penalties=[{"name": "l1", "weight": weight}])) for weight in WEIGHTS]
    runs = [(recipe, fresh(recipe)) for recipe in recipes]
    shares = Stack(runs).measure(x)
    for number, recipe in enumerate(recipes):
        state = fresh(recipe)
        alone = sample_gradients(state, step_loss(recipe, state, x[number]))
        for name, norm in alone.norms.items():
            assert shares.gradient_norms[name][number].item() == pytest.approx(norm, rel=1e-4)
    override = {"l1.weight": torch.tensor([1.0, 1.0, 1.0])}
    equal = Stack(runs).measure(x, override).gradient_norms["l1"] / shares.gradient_norms["l1"]
    torch.testing.assert_close(equal, 1 / torch.tensor(WEIGHTS), rtol=1e-4, atol=0)
    untouched = fresh(recipes[0])
    assert_same(runs[0][1], untouched, rtol=0, atol=0)


def test_runs_of_different_structures_are_refused(config: Make) -> None:
    def stack(*configs: TrainConfig) -> None:
        Stack([(recipe, fresh(recipe)) for recipe in map(recipe_of, configs)])

    with pytest.raises(ConfigError, match="2 structures"):
        stack(config(), config(sae={"name": "relu", "d_sae": 48}))
    pairs = [{"name": "topk_orthogonality", "weight": 1.0, "pairs_per_latent": number} for number in (1, 2)]
    with pytest.raises(ConfigError, match="2 structures"):  # states of different sizes
        stack(*(config(penalties=[penalty]) for penalty in pairs))
    targets = [{"name": "l1", "weight": {**STEERED, "to": to}} for to in (5.0, 8.0)]
    with pytest.raises(ConfigError, match="2 structures"):  # one controller steers the whole stack
        stack(*(config(penalties=[penalty]) for penalty in targets))
    with pytest.raises(ConfigError, match="2 structures"):
        stack(config(optimizer={"clip": 1.0}), config(optimizer={"clip": 2.0}))
    with pytest.raises(ConfigError, match="resamples dead latents"):
        stack(config(dead={"resample_steps": 5}))
    with pytest.raises(ConfigError, match="transforms activations"):
        stack(config(transforms=[{"name": "latent_dropout", "rate": {"start": 0.1, "end": 0.0, "finish": 0.5}}]))

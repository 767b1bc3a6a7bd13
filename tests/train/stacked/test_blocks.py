"""Runs that step as blocks have the bits that each has alone, whatever differs between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.penalties import l1
from saepipe.train.penalties.base import Penalised
from saepipe.train.stacked.blocks import Blocks, block_shape, why_no_block
from saepipe.train.step.measure import measure_due
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")
STEPS, BATCH, D_IN = 30, 17, 24
L1 = {"name": "l1", "weight": 0.3, "warmup": 0.2}
STEERED = {"name": "l1", "weight": {"steer": "l0", "to": 5.0, "start": 0.3}}
SCHEDULED = {"name": "topk", "d_sae": 40, "k": {"start": 12, "end": 3, "finish": 0.5}}
DEAD = {"dead": {"after_tokens": 20}}


def topk(k: int) -> dict[str, Any]:
    return {"sae": {"name": "topk", "d_sae": 40, "k": k}, "penalties": [{"name": "auxk"}], **DEAD}


TEAMS: dict[str, list[dict[str, Any]]] = {
    "relu, weights and rates": [
        {"penalties": [{"name": "l1", "weight": weight}], "optimizer": {"lr": lr}}
        for weight, lr in ((0.1, 1e-3), (0.3, 1e-3), (1.0, 1e-2))
    ],
    "topk, k, with auxk": [topk(2), topk(3), topk(4)],
    "auxk of few dead latents": [{**topk(4), "penalties": [{"name": "auxk", "k_aux": k_aux}]} for k_aux in (1, 3)],
    "penalties and architectures": [
        {"penalties": [L1]},
        {"penalties": [L1, {"name": "ortsae", "weight": 0.5}, {"name": "tanh", "weight": 0.1}]},
        {"penalties": [L1, {"name": "c2r", "weight": 1.0}, {"name": "random_pairs", "weight": 1.0}]},
        {"penalties": [STEERED, {"name": "preact", "weight": 0.1}], "reconstruction": "norm"},
        topk(4),
        {"sae": SCHEDULED, "penalties": []},
    ],
    "no clipping": [{"penalties": [L1], "optimizer": {"clip": None, "lr": lr}} for lr in (1e-3, 1e-2)],
}


def recipe_of(config: TrainConfig) -> Recipe:
    return Recipe(config.resolved(hook="h", num_rows=1000, device=CPU), D_IN, 1.0, CPU)


def fresh(recipe: Recipe) -> TrainState:
    return fresh_state(recipe, initial_params(recipe))


def batches() -> Tensor:
    return torch.randn(STEPS, BATCH, D_IN, generator=torch.Generator().manual_seed(0))


def tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, value.detach()) for name, value in state.all_params.items())
    for label, own in [*state.moments.items(), *state.states.items()]:
        yield from ((f"{label}/{key}", value) for key, value in own.items())
    yield from state.steered.items()
    yield "tokens_since_fired", state.tokens_since_fired
    yield "sums", state.sums


def assert_equal(state: TrainState, other: TrainState) -> None:
    assert (state.step, state.num_summed, state.sampled) == (other.step, other.num_summed, other.sampled)
    for (name, value), (other_name, expected) in zip(tensors(state), tensors(other), strict=True):
        assert name == other_name
        assert torch.equal(value, expected), name


@pytest.fixture
def sparse(config: Make) -> Make:
    return lambda **changes: config(**{"steps": STEPS, "batch_size": BATCH, "sparse_steps": "always"} | changes)


@pytest.mark.parametrize("name", TEAMS)
def test_every_run_has_the_bits_that_it_has_alone(sparse: Make, name: str) -> None:
    recipes = [recipe_of(sparse(seed=seed, **changes)) for seed, changes in enumerate(TEAMS[name])]
    assert [why_no_block(recipe) for recipe in recipes] == [None] * len(recipes)
    runs, alone = ([(recipe, fresh(recipe)) for recipe in recipes] for _ in range(2))
    blocks = Blocks(runs)
    for x in batches():
        blocks.step(x)
        for recipe, state in alone:
            train_step(recipe, state, x)
    for (recipe, state), (_, expected) in zip(runs, alone, strict=True):
        assert_equal(state, expected)
        assert state.step == STEPS
        assert not torch.equal(state.params["W_dec"], fresh(recipe).params["W_dec"])
        if "auxk" in name:
            assert float(state.sums[1, 0]) > 0  # so there were dead latents


def test_a_run_is_measured_between_steps(sparse: Make) -> None:
    recipe, other = recipe_of(sparse(penalties=[L1])), recipe_of(sparse(**topk(4), seed=1))
    state, alone = fresh(recipe), fresh(recipe)
    blocks, due = Blocks([(recipe, state), (other, fresh(other))]), Due.LINE | Due.GRADIENTS
    for x in batches()[:5]:
        figures = measure_due(recipe, state, step_loss(recipe, state, x), due)
        blocks.step(x)
        assert figures == train_step(recipe, alone, x, due)
        assert_equal(state, alone)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sparse_steps": "auto"}, "does not demand sparse steps"),
        ({"sae": {"name": "jumprelu", "d_sae": 40}, "penalties": []}, "entries of a jumprelu"),
        ({"sae": {"name": "batch_topk", "d_sae": 40, "k": 4}, "penalties": []}, "entries of a batch_topk"),
        ({"batch_size": 513}, "in pieces"),
        ({"screen": "always"}, "screens its encoder"),
        ({"compute_dtype": "bfloat16"}, "float32"),
        ({"freeze": "decoder"}, "frozen"),
        ({"compile": "inductor", "exact": False}, "captured"),
        ({"dead": {"resample_steps": 5}}, "resamples"),
    ],
)
def test_runs_that_are_no_blocks_say_why(sparse: Make, changes: dict[str, Any], reason: str) -> None:
    said = why_no_block(recipe_of(sparse(**changes)))
    assert said is not None
    assert reason in said


def test_blocks_have_one_shape_and_optimiser(sparse: Make) -> None:
    def shape(**changes: Any) -> Any:
        return block_shape(recipe_of(sparse(**changes)))

    assert shape() == shape(**topk(3), seed=4, steps=50, optimizer={"lr": 0.1, "warmup": 0.5})
    others = [{"optimizer": {"clip": 2.0}}, {"batch_size": 16}, {"sae": {"name": "relu", "d_sae": 48}}]
    assert all(shape(**changes) != shape() for changes in others)


def test_a_penalty_that_reads_its_values_may_be_in_a_block(sparse: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, read = l1.L1.__call__, list[float]()

    def reading(self: l1.L1, ctx: Any, state: Any, now: Any) -> Penalised:
        answer = plain(self, ctx, state, now)
        read.append(float(answer.value.detach()))
        return answer

    monkeypatch.setattr(l1.L1, "__call__", reading)
    Blocks([(recipe, fresh(recipe)) for recipe in (recipe_of(sparse(seed=seed)) for seed in range(2))]).step(
        batches()[0]
    )
    assert len(read) == 2
    assert read[0] != read[1]

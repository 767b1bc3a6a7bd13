"""The rule that decides which runs are stacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import Penalised
from saepipe.train.penalties.l1 import L1
from saepipe.train.stacked.teams import MAX_STACKED_WORK, may_be_stacked, teams
from saepipe.train.step.density import THRESHOLDS
from saepipe.train.step.state import Recipe

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]


def recipe(config: TrainConfig, device_name: str = "cpu") -> Recipe:
    device = torch.device(device_name)
    return Recipe(config.resolved(hook="h", num_rows=10**6, device=device), 24, 1.0, device)


def split(*configs: TrainConfig) -> list[list[int]]:
    recipes = [recipe(config) for config in configs]
    return teams(range(len(recipes)), lambda index: recipes[index])


def test_runs_of_one_structure_are_one_team(config: Make) -> None:
    def loose(**changes: Any) -> TrainConfig:
        return config(exact=False, **changes)

    topk = {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}]}
    steep = {"optimizer": {"lr": 1e-2, "warmup": 0.3}}
    assert split(loose(), loose(**topk), loose(seed=1), loose(**steep), loose(**topk, seed=2)) == [[0, 2, 3], [1, 4]]
    assert split(loose(), loose(penalties=[])) == [[0], [1]]
    assert split(config(exact=True), config(exact=True, seed=1), loose(), loose(seed=1)) == [[0], [1], [2, 3]]


def test_sparse_runs_of_one_shape_are_one_team_exact_or_not(config: Make) -> None:
    def sparse(**changes: Any) -> TrainConfig:
        return config(**{"sparse_steps": "always"} | changes)

    topk = {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}]}
    other_k = {"sae": {"name": "topk", "d_sae": 40, "k": 6}, "penalties": []}
    assert split(sparse(), sparse(**topk), config(), sparse(**other_k, exact=False)) == [[0, 1, 3], [2]]
    assert split(sparse(), sparse(sae={"name": "relu", "d_sae": 48})) == [[0], [1]]
    large = {"batch_size": 512, "sae": {"name": "relu", "d_sae": 2 * MAX_STACKED_WORK // (512 * 24)}}
    assert split(sparse(**large), sparse(**large, seed=1)) == [[0], [1]]


def test_exact_is_the_default_only_on_a_cpu(config: Make) -> None:
    assert not may_be_stacked(recipe(config()))
    assert may_be_stacked(recipe(config(), "cuda"))
    assert not may_be_stacked(recipe(config(exact=True), "cuda"))


@pytest.mark.parametrize(
    "changes",
    [
        {"dead": {"resample_steps": 5}},
        {"transforms": [{"name": "latent_dropout", "rate": {"start": 0.1, "end": 0.0, "finish": 0.5}}]},
        {"kl_tail": 0.5},
        {"sparse_steps": "always"},
    ],
)
def test_runs_that_a_stack_cannot_reproduce_are_trained_alone(config: Make, changes: dict[str, Any]) -> None:
    assert not may_be_stacked(recipe(config(exact=False, **changes)))


def test_the_rule_depends_on_shape(config: Make) -> None:
    assert all(each.least_work > MAX_STACKED_WORK for each in THRESHOLDS.values())  # a stack's steps are dense
    largest = MAX_STACKED_WORK // (24 * 40)
    assert may_be_stacked(recipe(config(exact=False, batch_size=largest)))
    assert not may_be_stacked(recipe(config(exact=False, batch_size=largest + 1)))


def test_a_penalty_that_reads_its_values_is_trained_alone(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = L1.__call__

    def reading(self: L1, ctx: Any, state: Any, now: Any) -> Penalised:
        answer = plain(self, ctx, state, now)
        assert float(answer.value.detach()) >= 0
        return answer

    assert may_be_stacked(recipe(config(exact=False)))
    monkeypatch.setattr(L1, "__call__", reading)
    assert not may_be_stacked(recipe(config(exact=False)))

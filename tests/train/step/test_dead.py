from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from saepipe.train.config import TrainConfig
from saepipe.train.step.dead import any_dead, count_silence, dead_mask, resample
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import train_step

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


def begin(config: TrainConfig, num_steps: int = 3) -> tuple[Recipe, TrainState]:
    """Returns a run on random rows after some steps."""
    recipe = Recipe(config.resolved(hook="h", num_rows=1000, device=CPU), 24, 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    for step in range(num_steps):
        train_step(recipe, state, rows(step))
    return recipe, state


def rows(seed: int) -> torch.Tensor:
    return torch.randn(17, 24, generator=torch.Generator().manual_seed(seed))


def test_silence_is_counted_in_tokens() -> None:
    """Compared with a record of the batches in which each latent was active."""
    rng = torch.Generator().manual_seed(0)
    active = torch.rand(30, 40, generator=rng) < 0.05
    counts = torch.zeros(40, dtype=torch.int64)
    for acts_sum in active.float() * 2.5:
        count_silence(counts, acts_sum, batch=17)
    for latent, count in enumerate(counts.tolist()):
        batches = [number for number in range(30) if active[number, latent]]
        assert count == 17 * (29 - batches[-1] if batches else 30)


def test_a_latent_is_dead_at_the_threshold(config: Make) -> None:
    recipe, state = begin(config(dead={"after_tokens": 34}), num_steps=2)
    state.tokens_since_fired[:] = torch.tensor([33, 34] * 20)
    assert dead_mask(recipe, state.tokens_since_fired).tolist() == [False, True] * 20
    assert any_dead(recipe, state.step, state.tokens_since_fired)
    state.step = 1  # after 17 tokens no latent can be dead yet
    assert not any_dead(recipe, state.step, state.tokens_since_fired)


def test_resampled_latents_are_reset(config: Make) -> None:
    recipe, state = begin(config(dead={"after_tokens": 1000}))
    state.tokens_since_fired[[2, 7, 31]] = 1000
    before = {name: value.detach().clone() for name, value in state.params.items()}
    x = rows(9)
    assert resample(recipe, state, x) == 3
    dead = [2, 7, 31]
    living = [latent for latent in range(40) if latent not in dead]
    params = {name: value.detach() for name, value in state.params.items()}
    directions = torch.nn.functional.normalize(x - before["b_dec"], dim=1)
    for latent in dead:
        closest = (directions - params["W_dec"][latent]).norm(dim=1).min()
        assert closest < 1e-6  # it is one of the tokens' directions
    length = 0.2 * before["W_enc"][:, living].norm(dim=0).mean()
    torch.testing.assert_close(params["W_enc"][:, dead], length * params["W_dec"][dead].T)
    assert not params["b_enc"][dead].any()
    assert state.tokens_since_fired[dead].tolist() == [0, 0, 0]
    for name, index in (("W_dec", (dead,)), ("W_enc", (slice(None), dead)), ("b_enc", (dead,))):
        moments = state.moments[name]
        assert not moments["exp_avg"][index].any()
        assert not moments["exp_avg_sq"][index].any()
    for name, index in (("W_dec", (living,)), ("W_enc", (slice(None), living)), ("b_enc", (living,))):
        assert torch.equal(params[name][index], before[name][index])
        assert state.moments[name]["exp_avg"][index].any()
    assert torch.equal(params["b_dec"], before["b_dec"])


def test_tokens_are_sampled_by_their_squared_error(config: Make) -> None:
    """Two tokens whose errors have a ratio of 1 : 3, so their probabilities have a ratio of 1 : 9."""
    recipe, state = begin(config(dead={"after_tokens": 1}, activation_scale="none"), num_steps=1)
    with torch.no_grad():
        for value in state.params.values():
            value.zero_()
        state.params["W_enc"][0] = 1e-9
    x = torch.zeros(2, 24)
    x[0, 3], x[1, 5] = 1.0, -3.0
    sampled_second = []
    for step in range(400):
        state.step = step
        state.tokens_since_fired[:] = 0
        state.tokens_since_fired[4] = 1
        assert resample(recipe, state, x) == 1
        sampled_second.append(bool(state.params["W_dec"][4, 5]))
    assert sum(sampled_second) / 400 == pytest.approx(0.9, abs=0.05)


def test_without_dead_latents_nothing_changes(config: Make) -> None:
    recipe, state = begin(config(dead={"after_tokens": 1000}))
    before = {name: value.detach().clone() for name, value in state.params.items()}
    assert resample(recipe, state, rows(9)) == 0
    assert all(torch.equal(value, before[name]) for name, value in state.params.items())


def test_more_dead_latents_than_tokens(config: Make) -> None:
    recipe, state = begin(config(dead={"after_tokens": 1000}))
    state.tokens_since_fired[:] = 1000
    assert resample(recipe, state, rows(9)) == 17
    assert int((state.tokens_since_fired == 0).sum()) == 17
    assert len({tuple(row) for row in state.params["W_dec"].detach()[:17].tolist()}) == 17


def test_a_resampled_latent_returns_to_its_initial_threshold(config: Make) -> None:
    """Otherwise the learned threshold of a dead jumprelu latent would keep it dead."""
    jumprelu = {"name": "jumprelu", "d_sae": 40, "initial_threshold": 0.3}
    recipe, state = begin(config(sae=jumprelu, penalties=[{"name": "l0", "weight": 1.0}], dead={"after_tokens": 1000}))
    with torch.no_grad():
        state.params["threshold"].fill_(7.0)
    state.tokens_since_fired[[2, 7]] = 1000
    resample(recipe, state, rows(9))
    threshold = state.params["threshold"].detach()
    assert threshold[[2, 7]].tolist() == pytest.approx([0.3, 0.3])
    assert threshold.sum().item() == pytest.approx(38 * 7 + 0.6)

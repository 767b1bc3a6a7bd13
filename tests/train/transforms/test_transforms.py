"""Properties that every transform must have, and the formula of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.config.component import import_members
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load
from saepipe.train.schedule import settings_at
from saepipe.train.transforms.base import Codes, State, Transform, Transformed
from saepipe.train.transforms.batch_gate import BatchGate
from saepipe.train.transforms.inhibition import Inhibition
from saepipe.train.transforms.latent_dropout import LatentDropout, uniform_numbers

import_members(Transform.package)

D_IN, D_SAE, BATCH = 24, 40, 17
OFF = {"latent_dropout": {"rate": 0.0}, "inhibition": {"strength": 0.0}, "batch_gate": {"keep": 1.0}}
"""Settings at which a transform does nothing."""


@pytest.fixture(params=sorted(Transform.members))
def transform(request: pytest.FixtureRequest) -> Transform:
    transform = Transform.parse({"name": request.param})
    assert isinstance(transform, Transform)
    return transform


@pytest.fixture
def codes() -> Codes:
    rng = torch.Generator().manual_seed(3)
    pre_acts = torch.randn(BATCH, D_SAE, generator=rng, dtype=torch.float64)
    W_dec = normalize(torch.randn(D_SAE, D_IN, generator=rng, dtype=torch.float64), dim=1)
    return Codes(lambda: pre_acts, pre_acts.relu().requires_grad_(), W_dec.requires_grad_(), seed=5, step=0)


def answer(transform: Transform, codes: Codes, state: State | None = None) -> Transformed:
    """Calls the transform as in a run of ten steps."""
    state = transform.init_state(D_IN, D_SAE) if state is None else state
    return transform(codes, state, settings_at(transform, codes.step, 10))


def test_shapes_dtypes_and_ranges_of_the_answer(transform: Transform, codes: Codes) -> None:
    result = answer(transform, codes)
    assert (result.acts.shape, result.acts.dtype) == (codes.acts.shape, codes.acts.dtype)
    assert result.acts.min() >= 0
    assert result.acts.requires_grad
    assert not torch.equal(result.acts, codes.acts)
    assert result.statistics.keys() == transform.statistics.keys()
    for name, (low, high) in transform.statistics.items():
        assert result.statistics[name].shape == ()
        assert low <= float(result.statistics[name]) <= high, name
    initial = transform.init_state(D_IN, D_SAE)
    assert {name: (t.shape, t.dtype) for name, t in result.state.items()} == {
        name: (t.shape, t.dtype) for name, t in initial.items()
    }


def test_bfloat16_activations_stay_so(transform: Transform, codes: Codes) -> None:
    pre_acts = codes.pre_acts.bfloat16()
    low = replace(codes, read_pre_acts=lambda: pre_acts, acts=codes.acts.bfloat16(), W_dec=codes.W_dec.float())
    assert answer(transform, low).acts.dtype == torch.bfloat16


def test_a_step_is_pure_and_random_by_seed_and_step_only(transform: Transform, codes: Codes) -> None:
    before = [tensor.detach().clone() for tensor in (codes.pre_acts, codes.acts, codes.W_dec)]
    state = transform.init_state(D_IN, D_SAE)
    copies = {name: tensor.clone() for name, tensor in state.items()}
    torch.manual_seed(1)
    first = answer(transform, codes, state)
    torch.manual_seed(2)
    second = answer(transform, codes, state)
    assert torch.equal(first.acts, second.acts)
    assert all(torch.equal(a, b) for a, b in zip(before, (codes.pre_acts, codes.acts, codes.W_dec), strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in copies.items())


def test_it_can_be_switched_off(transform: Transform, codes: Codes) -> None:
    off = Transform.parse({"name": transform.name, **OFF[transform.name]})
    assert isinstance(off, Transform)
    for step in (0, 7):
        assert torch.equal(answer(off, replace(codes, step=step)).acts, codes.acts)


def test_it_ends_with_the_run_or_changes_nothing_on_average(transform: Transform, codes: Codes) -> None:
    last = replace(codes, step=9)
    if transform.name != "latent_dropout":
        assert torch.equal(answer(transform, last).acts, codes.acts)
        return
    mean = torch.stack([answer(transform, replace(codes, seed=seed)).acts for seed in range(4000)]).mean(0)
    torch.testing.assert_close(mean, codes.acts, rtol=0.03, atol=0.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("inhibition", {"strength": 0.5}),
        ("inhibition", {"strength": {"start": 0.5, "end": 0.1}}),
        ("inhibition", {"strength": {"steer": "l0", "to": 5, "start": 0.1}}),
        ("batch_gate", {"keep": 0.5}),
    ],
)
def test_a_transform_that_does_not_end_with_the_run_is_refused(name: str, settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="when the run ends"):
        Transform.parse({"name": name, **settings})


def test_inhibition_by_a_loop(codes: Codes) -> None:
    result = answer(Inhibition(m=3), codes)
    W_dec, acts = codes.W_dec.detach(), codes.acts.detach()
    for i in range(D_SAE):
        cos = [(float(W_dec[i] @ W_dec[j]), j) for j in range(D_SAE) if j != i]
        rivals = sum(max(c, 0.0) * acts[:, j] for c, j in sorted(cos, reverse=True)[:3])
        torch.testing.assert_close(result.acts[:, i], (acts[:, i] - 0.5 * rivals).relu())
    (to_dec,) = torch.autograd.grad(result.acts.sum(), codes.W_dec, allow_unused=True)
    assert to_dec is None


def test_neighbours_are_searched_when_a_refresh_is_due(codes: Codes) -> None:
    transform, turned = Inhibition(m=2, refresh_every=4), replace(codes, W_dec=codes.W_dec.flip(0))
    first = dict(answer(transform, codes).state)
    later = [answer(transform, replace(turned, step=step), first).state["neighbours"] for step in (3, 4)]
    assert torch.equal(later[0], first["neighbours"])
    assert torch.equal(later[1], (D_SAE - 1 - first["neighbours"]).flip(0))


def test_the_batch_gate_keeps_the_largest(codes: Codes) -> None:
    result = answer(BatchGate(), codes)
    sizes = sorted((value for row in codes.acts.tolist() for value in row if value > 0), reverse=True)
    kept = set(sizes[: round(len(sizes) / 2)])
    assert result.acts.tolist() == [[value if value in kept else 0.0 for value in row] for row in codes.acts.tolist()]
    assert result.statistics["kept_share"].item() == pytest.approx(0.5, abs=1 / len(sizes))
    assert result.statistics["kept_mass"].item() == pytest.approx(sum(kept) / sum(sizes))
    nothing = replace(codes, acts=torch.zeros_like(codes.acts))
    assert not answer(BatchGate(), nothing).acts.any()


def test_dropped_activations_are_zero_and_kept_ones_larger(codes: Codes) -> None:
    result = answer(LatentDropout(rate=0.3), codes)
    kept = uniform_numbers(codes) >= 0.3
    torch.testing.assert_close(result.acts, torch.where(kept, codes.acts / 0.7, 0.0))
    active = codes.acts > 0
    assert result.statistics["dropped_share"].item() == pytest.approx(
        (active & ~kept).sum().item() / active.sum().item()
    )


def test_random_numbers_are_uniform_and_pairwise_independent(codes: Codes) -> None:
    samples = torch.stack([uniform_numbers(replace(codes, step=step)) for step in range(3000)]).double()
    assert samples.min() >= 0  # (3000, batch, d_sae)
    assert samples.max() < 1
    below = (samples < 0.3).double()
    torch.testing.assert_close(below.mean(0), torch.full_like(below[0], 0.3), rtol=0, atol=0.04)
    for first, second in (((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 0), (1, 1)), ((3, 7), (9, 2))):
        both = (below[:, *first] * below[:, *second]).mean().item()
        assert both == pytest.approx(0.09, abs=4 * math.sqrt(0.09 * 0.91 / 3000))


def test_ages_count_tokens_and_set_the_dropout_rate(codes: Codes) -> None:
    """Latent 0 is active on every token, latent 1 once per batch, latent 2 in the first batch only, and no other is."""
    acts = torch.zeros(BATCH, D_SAE, dtype=torch.float64)
    acts[:, 0], acts[4, 1] = 1.0, 1.0
    state = LatentDropout().init_state(D_IN, D_SAE)
    for step in range(200):
        acts[0, 2] = float(step == 0)
        state = dict(answer(LatentDropout(), replace(codes, acts=acts, step=step), state).state)
    assert state["tokens_since_fired"][:4].tolist() == [0, 0, 199 * BATCH, 200 * BATCH]
    intervals = (state["seen"] + 0.01) / (state["fired"] + 0.01)
    assert intervals[:2].tolist() == pytest.approx([1, 17], rel=0.02)
    assert answer(LatentDropout(), codes, state).statistics["overdue_share"].item() == pytest.approx(38 / 40)

    all_active = replace(codes, acts=torch.ones_like(acts))
    share: dict[str, Tensor] = {}
    for drop in ("all", "busy", "overdue"):
        transform = LatentDropout.parse({"rate": 0.4, "drop": drop})
        samples = [answer(transform, replace(all_active, seed=seed), state).acts for seed in range(300)]
        share[drop] = (torch.stack(samples) == 0).double().mean((0, 1))
    age = state["tokens_since_fired"] / intervals
    torch.testing.assert_close(share["all"].float(), torch.full((D_SAE,), 0.4), rtol=0, atol=0.04)
    torch.testing.assert_close(share["busy"].float(), 0.4 / (1 + age), rtol=0, atol=0.04)
    torch.testing.assert_close(share["overdue"].float(), 0.4 * age / (1 + age), rtol=0, atol=0.04)


def test_transforms_combine_and_leave_a_plain_sae(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    transforms = [{"name": "latent_dropout", "drop": "busy"}, {"name": "inhibition"}, {"name": "batch_gate"}]
    (folder,) = train(config(transforms=transforms), tmp_path)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {f"{t.name}/{name}" for t in config(transforms=transforms).transforms for name in t.statistics}
    assert names <= lines[0].keys() | lines[0].get("statistics", {}).keys()
    assert load(folder).architecture == "relu"

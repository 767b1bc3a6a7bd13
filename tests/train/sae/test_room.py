"""Entries that are padded to a room give the numbers of those that are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.data.config.component import import_members
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.encoding import encode
from saepipe.train.sae.entries import Entries
from saepipe.train.sae.room import Room, count_entries, reached

import_members(Architecture.package)

D_IN, D_SAE, BATCH = 24, 40, 17
SAES: dict[str, dict[str, Any]] = {"relu": {}, "jumprelu": {"bandwidth": 0.2}, "gated": {}}
READ: dict[str, Callable[[Entries, Params], Tensor]] = {
    "acts": lambda entries, params: entries.acts,
    "acts_sum": lambda entries, params: entries.acts_sum,
    "gate_acts": lambda entries, params: entries.gate_acts,
    "gate_sum": lambda entries, params: entries.gate_sum,
    "over_batch": lambda entries, params: entries.over_batch(torch.sin),
    "over_gates": lambda entries, params: entries.over_gates(torch.sin),
    "num_active": lambda entries, params: entries.num_active,
    "num_above": lambda entries, params: entries.num_above(-1.0),
    "num_near": lambda entries, params: entries.num_near(params["b_enc"].detach() + 0.3, 0.2),
    "first_acts": lambda entries, params: entries.first_acts(BATCH),
}


def setting(name: str) -> tuple[Architecture, Params, Tensor]:
    """Returns an architecture, parameters by which the last latent is on, and at the last token also near, and x."""
    sae = Architecture.parse({"name": name, "d_sae": D_SAE, **SAES[name]})
    assert isinstance(sae, Architecture)
    rng = torch.Generator().manual_seed(0)
    params = sae.init(D_IN, 1.0, rng)
    params |= {key: 0.3 * torch.randn(D_SAE, generator=rng) for key in {"b_enc", "r_mag", "b_mag"} & params.keys()}
    params["b_enc"][-1] = 20.0
    x = torch.randn(BATCH, D_IN, generator=rng)
    if "threshold" in params:
        params["threshold"][-1] = sae.pre_acts(params, x)[-1, -1] - 0.05
    return sae, {key: value.requires_grad_() for key, value in params.items()}, x


def slopes(values: Tensor, params: Params) -> list[Tensor]:
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad((values * weights).sum(), list(params.values()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), found, strict=True)]


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("extra", [0, 1, 100])
@pytest.mark.parametrize("transformed", [False, True])
def test_padded_entries_have_every_bit_of_the_others(name: str, extra: int, transformed: bool) -> None:
    sae, params, x = setting(name)
    pre_acts = sae.pre_acts(params, x).detach()
    num_entries, num_near = count_entries(sae, params, pre_acts, transformed=transformed).tolist()
    room = Room(pre_acts, num_entries + extra, num_near + extra)
    plain, padded = (encode(sae, params, x, torch.float32, transformed=transformed, room=r) for r in (None, room))
    assert padded.pattern.num_entries == plain.pattern.num_entries + extra
    assert_same(padded, plain, sae, params)
    if transformed:
        half = 0.5 * plain.acts
        changed, expected = (each.with_acts(sae, params, each.pattern.values_of(half)) for each in (padded, plain))
        assert_same(changed, expected, sae, params)


def assert_same(padded: Entries, plain: Entries, sae: Architecture, params: Params) -> None:
    """Compares every bit of what can be read, and of its gradients."""
    for read, function in READ.items():
        assert_same_tensor(function(padded, params), function(plain, params), params, read)
    x_hats = padded.reconstructions(sae, params), plain.reconstructions(sae, params)
    for own, expected in zip(*x_hats, strict=True):
        assert_same_tensor(own, expected, params, "x_hat")


def assert_same_tensor(own: Tensor, expected: Tensor, params: Params, name: str) -> None:
    assert torch.equal(own, expected), name
    assert own.requires_grad == expected.requires_grad
    if own.requires_grad:
        for gradient, wanted in zip(slopes(own, params), slopes(expected, params), strict=True):
            assert torch.equal(gradient, wanted), name


def test_entries_and_near_ones_are_counted() -> None:
    sae, params, x = setting("jumprelu")
    pre_acts, threshold = sae.pre_acts(params, x), params["threshold"]
    active, near = pre_acts > threshold, (pre_acts - threshold).abs() < 0.1
    assert count_entries(sae, params, pre_acts, transformed=False).tolist() == [int(active.sum()), int(near.sum())]
    assert count_entries(sae, params, pre_acts, transformed=True).tolist() == [int((active | near).sum()), 0]
    assert torch.equal(reached(sae, params, pre_acts, transformed=True), active | near)
    relu, params, x = setting("relu")
    on = relu.pre_acts(params, x) > 0
    assert count_entries(relu, params, relu.pre_acts(params, x), transformed=True).tolist() == [int(on.sum()), 0]

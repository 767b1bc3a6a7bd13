"""Entries of an encoding at inference: the nonzero ones of `encode`, for every architecture, in blocks and screened."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saepipe.train.rundir.load import SAE
from saepipe.train.sae import encoding, sparse_acts
from saepipe.train.sae import screen as screen_module
from saepipe.train.sae import screening as screening_module
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.gated import Gated
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.screen import Screen
from saepipe.train.sae.screening import Screening
from saepipe.train.sae.sparse_acts import SparseActs, encode_sparse
from saepipe.train.sae.topk import TopK

pytestmark = pytest.mark.quick

D_IN, D_SAE, NUM_TOKENS = 32, 150, 90


class Above(ReLU):
    """Derived architecture that chooses its entries otherwise, so that what ReLU says of them is not true."""

    name: str  # type: ignore[assignment]  # without a default, so that it is no member

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return (pre_acts - 0.3).relu() * params["W_dec"].norm(dim=1)


class Squared(ReLU):
    """Derived architecture with an encoder of its own."""

    name: str  # type: ignore[assignment]

    def pre_acts(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return super().pre_acts(params, x.square(), dtype)


class Halved(TopK):
    """Derived architecture that says of its entries all that the screen asks, but not how they are found among some."""

    name: str  # type: ignore[assignment]
    floor = TopK.floor

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return super().activate(params, pre_acts) / 2

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        positions, acts = super().nonzero(params, pre_acts)
        return positions, acts / 2


SAES: dict[str, Architecture] = {
    "relu": ReLU(d_sae=D_SAE),
    "gated": Gated(d_sae=D_SAE),
    "jumprelu": JumpReLU(d_sae=D_SAE),  # batch_topk and its kin are saved as one
    "topk": TopK(d_sae=D_SAE, k=9),
    "above": Above(name="above", d_sae=D_SAE),
    "squared": Squared(name="squared", d_sae=D_SAE),
    "halved": Halved(name="halved", d_sae=D_SAE, k=9),
}


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def params_of(sae: Architecture) -> Params:
    params = sae.init(D_IN, 1.0, torch.Generator().manual_seed(0))
    params |= {"b_enc": 0.3 * randn(1, D_SAE) - 1.2, "b_dec": 0.1 * randn(2, D_IN)}
    own = {"r_mag": 0.2 * randn(3, D_SAE), "b_mag": 0.5 * randn(4, D_SAE), "threshold": randn(5, D_SAE) + 0.1}
    return params | {name: value for name, value in own.items() if name in params}


@pytest.fixture(params=sorted(SAES))
def sae(request: pytest.FixtureRequest) -> Architecture:
    return SAES[request.param]


@pytest.fixture(params=["whole", "blocks", "always"])
def screening(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Screening:
    """Encodes whole rows, blocks of rows and latents, or whole rows behind a screen; several of each."""
    monkeypatch.setattr(sparse_acts, "PIECE", 31)
    monkeypatch.setattr(sparse_acts, "BLOCK", (40, 64 if request.param == "blocks" else D_SAE))
    monkeypatch.setattr(screen_module, "MOST_CANDIDATES", 1.0)
    return "always" if request.param == "always" else "never"


def test_entries_are_the_nonzero_ones_of_encode(sae: Architecture, screening: Screening) -> None:
    params, x = params_of(sae), randn(6, NUM_TOKENS, D_IN)
    expected, acts = sae.encode(params, x), encode_sparse(sae, params, x, screening)
    assert 0.01 < float((expected != 0).float().mean()) < 0.5
    assert torch.equal(acts.pattern.positions, (expected != 0).flatten().nonzero().squeeze(1))
    assert (acts.pattern.num_rows, acts.pattern.num_columns) == expected.shape
    torch.testing.assert_close(acts.pattern.dense(acts.values), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["x", "b_enc", "W_enc", "r_mag", "b_mag", "threshold"])
@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_what_is_not_finite_is_found(sae: Architecture, screening: Screening, name: str, bad: float) -> None:
    """NaN, and -inf, which becomes NaN where an activation multiplies it by 0."""
    tensors = params_of(sae) | {"x": randn(6, NUM_TOKENS, D_IN)}
    if name not in tensors:
        return
    tensors[name][(7,) * tensors[name].dim()] = bad
    x = tensors.pop("x")
    expected, acts = sae.encode(tensors, x), encode_sparse(sae, tensors, x, screening)
    assert bool(acts.values.isfinite().all()) == bool(expected.isfinite().all())


@pytest.mark.parametrize(
    ("screening", "fewest", "least", "screened"),
    [
        ("auto", NUM_TOKENS, NUM_TOKENS * D_SAE * D_IN, True),
        ("auto", NUM_TOKENS + 1, NUM_TOKENS * D_SAE * D_IN, False),
        ("auto", NUM_TOKENS, NUM_TOKENS * D_SAE * D_IN + 1, False),
        ("always", NUM_TOKENS + 1, NUM_TOKENS * D_SAE * D_IN + 1, True),
        ("never", 0, 0, False),
    ],
)
def test_a_screen_is_prepared_where_tokens_and_products_repay_it(
    screening: Screening, fewest: int, least: int, screened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_screen, prepared = Screen.of, []
    monkeypatch.setattr(sparse_acts, "FEWEST_SCREENED", fewest)
    monkeypatch.setattr(encoding, "LEAST_SCREENED", least)
    monkeypatch.setattr(screening_module, "multiplies_bfloat16_fast", lambda: True)
    monkeypatch.setattr(Screen, "of", lambda *args: prepared.append(args) or of_screen(*args))
    encode_sparse(SAES["relu"], params_of(SAES["relu"]), randn(6, NUM_TOKENS, D_IN), screening)
    assert bool(prepared) == screened


def test_no_tokens_have_no_entries(sae: Architecture, screening: Screening) -> None:
    acts = encode_sparse(sae, params_of(sae), torch.zeros(0, D_IN), screening)
    assert (acts.pattern.num_rows, acts.pattern.num_columns, acts.pattern.num_entries) == (0, D_SAE, 0)


def test_stacked_activations_are_those_of_all_tokens() -> None:
    dense = randn(7, 12, 20).relu()
    stacked = SparseActs.stacked([SparseActs.of(part) for part in dense.split(5)])
    assert torch.equal(stacked.pattern.dense(stacked.values), dense)


def test_a_reconstruction_is_decode_of_encode(sae: Architecture) -> None:
    """By entries where nothing asks for a gradient, and with the same gradient as before where something does."""
    module, x = SAE(sae, params_of(sae), {}), randn(6, 3, NUM_TOKENS // 3, D_IN)
    torch.testing.assert_close(module(x), module.decode(module.encode(x)))
    x.requires_grad_()
    assert module(x).requires_grad
    with torch.no_grad():
        assert not module(x).requires_grad

"""The screen rules out no entry: adversarial and random factors, and bounds that are too small are caught."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from saepipe.train.sae import screen as screen_module
from saepipe.train.sae.base import Architecture, Params, product
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.sae.encoding import encode
from saepipe.train.sae.gated import Gated
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.screen import Screen, multiplies_bfloat16_fast, screens
from saepipe.train.sae.topk import TopK

pytestmark = pytest.mark.quick

D_IN, D_SAE, BATCH = 48, 160, 64
SAES: dict[str, Architecture] = {
    "relu": ReLU(d_sae=D_SAE),
    "gated": Gated(d_sae=D_SAE),
    "jumprelu": JumpReLU(d_sae=D_SAE, bandwidth=0.1),
    "topk": TopK(d_sae=D_SAE, k=5),
    "batch_topk": BatchTopK(d_sae=D_SAE, k=5),
}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a screen go on with any number of candidates, so that it is tested and not the whole product."""
    monkeypatch.setattr(screen_module, "MOST_CANDIDATES", 1.0)


def missed(sae: Architecture, params: Params, x: Tensor) -> int:
    """Counts the entries of the whole product, and those whose slope is estimated, that the screen rules out."""
    bias = params["b_enc"]
    screened = Screen.of(params["W_enc"], bias).pre_acts(sae, params, x)
    assert screened is not None
    exact = product(x, params["W_enc"], bias)
    return int((_needed(sae, params, exact) & screened.isinf()).sum())


def _needed(sae: Architecture, params: Params, pre_acts: Tensor) -> Tensor:
    needed, candidates = torch.zeros(pre_acts.shape, dtype=torch.bool), sae.candidates(params, pre_acts)
    assert candidates is not None
    needed.view(-1)[candidates.positions] = True
    near = sae.near(params, pre_acts)
    return needed if near is None else needed | near


def params_of(W: Tensor, b_enc: Tensor, threshold: float) -> Params:
    """Returns parameters with encoder directions W (d_sae, d_in)."""
    return {"W_enc": W.T, "b_enc": b_enc, "threshold": torch.full((len(W),), threshold)}


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lost(factor: Tensor) -> Tensor:
    """Returns what rounding to bfloat16 removes."""
    return factor - factor.bfloat16().float()


def on_the_edge(seed: int, level: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns x, W and b_enc whose pre-activations lie just above a level, while the rounded product lies below.

    Each latent points along what rounding takes from one token: there the inequality of Cauchy and Schwarz is tight.
    """
    x = randn(seed, BATCH, D_IN)
    W = lost(x)[torch.arange(D_SAE) % BATCH] * 300 + 1e-3 * randn(seed + 1, D_SAE, D_IN)
    W = W.bfloat16().float()
    pre_acts = x @ W.T
    own = pre_acts[torch.arange(D_SAE) % BATCH, torch.arange(D_SAE)]
    return x, W, level * (1 + 1e-5) + 1e-5 - own


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("level", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_entries_within_the_bound_of_the_floor_are_kept(seed: int, level: float) -> None:
    x, W, b_enc = on_the_edge(seed, level)
    b_enc -= 5 * (torch.arange(D_SAE) >= BATCH)  # one latent for each token: few candidates
    sae: Architecture = JumpReLU(d_sae=D_SAE, bandwidth=1e-6) if level else ReLU(d_sae=D_SAE)
    params = params_of(W, b_enc, level)
    exact = product(x, params["W_enc"], b_enc)
    assert _needed(sae, params, exact).sum() >= BATCH / 2
    assert missed(sae, params, x) == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("level", [0.0, 0.7])
def test_a_bound_that_is_too_small_is_caught(level: float, monkeypatch: pytest.MonkeyPatch) -> None:
    norm = screen_module._norm
    monkeypatch.setattr(screen_module, "_norm", lambda rows: norm(rows) / 2)  # so each bound is a quarter of what it is
    x, W, b_enc = on_the_edge(0, level)
    b_enc -= 5 * (torch.arange(D_SAE) >= BATCH)
    sae: Architecture = JumpReLU(d_sae=D_SAE, bandwidth=1e-6) if level else ReLU(d_sae=D_SAE)
    assert missed(sae, params_of(W, b_enc, level), x) > 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12])
@pytest.mark.parametrize("seed", range(4))
def test_no_entry_of_random_factors_is_missed(name: str, scale: float, seed: int) -> None:
    """Rows of very different lengths, duplicated latents and tokens, zeros, denormals; a floor that few exceed."""
    x, W = randn(seed, BATCH, D_IN), randn(seed + 50, D_SAE, D_IN)
    W[1::2] = W[::2] * torch.logspace(-6, 6, D_SAE // 2).unsqueeze(1)
    W[:20] = W[20:40]
    x[:5], x[5], x[6:8] = x[10:15], 0.0, 1e-41
    x, W = x * scale**0.5, W * scale**0.5
    pre_acts = x @ W.T
    b_enc = -pre_acts.quantile(0.97, dim=0)
    threshold = float(0.5 * (pre_acts + b_enc).abs().median())
    params = params_of(W, b_enc, threshold)
    if name == "batch_topk":
        params["threshold"] = params["threshold"][0]  # of all latents
    assert missed(SAES[name], params, x) == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("k", [1, 5])
def test_ties_around_the_kth_largest_are_candidates(k: int) -> None:
    """The k-th largest and others differ by less than the bound."""
    x, W = randn(0, BATCH, D_IN), randn(1, D_SAE, D_IN)
    W[:10] = W[0] + 1e-6 * randn(2, 10, D_IN)
    params = params_of(W, torch.zeros(D_SAE), 0.0)
    assert missed(TopK(d_sae=D_SAE, k=k), params, x) == 0


def test_candidates_are_few_and_their_values_exact() -> None:
    x, W = randn(0, 128, 256), torch.nn.functional.normalize(randn(1, 2048, 256), dim=1)
    params = params_of(W, torch.full((2048,), -2.3), 0.0)
    screened = Screen.of(params["W_enc"], params["b_enc"]).pre_acts(ReLU(d_sae=2048), params, x)
    assert screened is not None
    exact = product(x, params["W_enc"], params["b_enc"])
    candidates = screened.isfinite()
    assert candidates.sum() < 3 * (exact > 0).sum()
    torch.testing.assert_close(screened[candidates], exact[candidates], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("b_enc", [5.0, float("nan")])
def test_many_candidates_are_left_to_the_whole_product(b_enc: float) -> None:
    params = params_of(randn(1, D_SAE, D_IN), torch.full((D_SAE,), b_enc), 0.0)
    assert Screen.of(params["W_enc"], params["b_enc"]).pre_acts(ReLU(d_sae=D_SAE), params, randn(0, 8, D_IN)) is None


@pytest.mark.usefixtures("patient")
def test_overflowing_sums_are_candidates() -> None:
    x, W = 1e30 * randn(0, BATCH, D_IN), randn(1, D_SAE, D_IN)
    W[0] *= 1e20
    params = params_of(W, torch.full((D_SAE,), -1e32), 0.0)
    assert missed(ReLU(d_sae=D_SAE), params, x) == 0


@pytest.mark.parametrize(
    ("screening", "dtype", "fast", "expected"),
    [
        ("auto", torch.float32, True, True),
        ("auto", torch.float32, False, False),
        ("auto", torch.bfloat16, True, False),
        ("always", torch.float32, False, True),
        ("always", torch.float64, True, False),
        ("never", torch.float32, True, False),
    ],
)
def test_the_rule(
    screening: Any, dtype: torch.dtype, fast: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen_module, "multiplies_bfloat16_fast", lambda: fast)
    assert screens(screening, torch.device("cpu"), dtype) is expected


def test_the_processor_is_asked() -> None:
    capabilities = torch.cpu.get_capabilities()
    assert multiplies_bfloat16_fast() == bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@pytest.mark.parametrize("name", sorted(SAES))
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_chosen_among_entries_is_what_is_chosen_among_all(patient: None, name: str, seed: int) -> None:
    sae, x = SAES[name], randn(seed + 2, BATCH, D_IN)
    params = params_of(randn(seed, D_SAE, D_IN), -randn(seed + 1, D_SAE).abs(), 3.0) | {"threshold": torch.tensor(3.0)}
    if name == "jumprelu":
        params["threshold"] = 2 + randn(seed + 3, D_SAE).abs()
    found = Screen.of(params["W_enc"], params["b_enc"]).entries(sae, params, x)
    assert found is not None
    pattern, values = found
    dense = pattern.dense_or(values, float("-inf"))
    expected = sae.candidates(params, dense)
    assert expected is not None
    chosen = sae.among(params, pattern, values)
    chosen = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
    assert torch.equal(pattern.only(chosen).positions, expected.positions)
    near, everywhere = sae.near_among(params, pattern, values), sae.near(params, dense)
    assert (near is None) == (everywhere is None)
    if near is not None and everywhere is not None:
        assert torch.equal(near, everywhere)
        assert near.any()


@pytest.mark.parametrize(("num_columns", "k"), [(333, 5), (4096, 32), (64, 60), (40, 40), (16, 1)])
def test_k_bounds_of_every_row_reach_the_floor(num_columns: int, k: int) -> None:
    """Groups of latents are compared where there are many; the last latents may be in none."""
    upper = randn(0, 50, num_columns).bfloat16()
    upper[:, -1] = 100  # the largest of all, beyond the groups
    floor = TopK(d_sae=num_columns, k=k)._at_most_kth(upper)
    assert floor.shape == (50, 1)
    assert ((upper >= floor).sum(1) >= k).all()
    exact = upper.topk(k, dim=1).values[:, -1:]
    assert (floor <= exact).all()
    assert ((upper >= floor).sum(1) <= 2 * k + 8).all()


def test_positive_bounds_are_compared_by_their_bits() -> None:
    """The same as numbers, but for -0.0, which no active entry has as its bound."""
    screen = Screen.of(randn(0, D_SAE, D_IN).T, randn(1, D_SAE))
    tiny, infinite = 2.0**-130, float("inf")
    special = torch.tensor([0.0, tiny, -tiny, 1.0, -1.0, infinite, -infinite, 3.0, 2.984375, 3.015625])
    upper = torch.cat([special, randn(2, 90)]).bfloat16().expand(4, 100)
    for floor in (torch.zeros(()), torch.tensor([[0.0], [1.0], [3.0], [2.984375]]), torch.full((100,), 0.5)):
        assert torch.equal(screen._reaching(upper, floor, randn(3, 4, D_IN)), upper >= floor)
    between = torch.tensor(2.99)  # no bfloat16: more may reach it, but none is missed
    reaching = screen._reaching(upper, between, randn(3, 4, D_IN))
    assert not (~reaching & (upper.float() >= between)).any()
    huge = torch.full((4, D_IN), 1e38)
    with_nan = upper.clone()
    with_nan[0, 0] = float("nan")
    assert screen._reaching(with_nan, torch.zeros(()), huge)[0, 0]
    negative = torch.tensor(-0.5)
    assert torch.equal(screen._reaching(upper, negative, randn(3, 4, D_IN)), upper >= negative)


def test_a_derived_class_that_chooses_otherwise_is_asked_itself(patient: None) -> None:
    """It overrides what `among` of its base relies on, and says again that it can be encoded in pieces."""

    class Raised(ReLU):
        name: str  # type: ignore[assignment]
        in_pieces: ClassVar[bool] = True

        def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
            return pre_acts > 0.7

        def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
            return spread.new_full((), 0.7)

    sae, x = Raised(name="raised", d_sae=D_SAE), randn(2, BATCH, D_IN)
    params = params_of(randn(0, D_SAE, D_IN) / 7, -randn(1, D_SAE).abs(), 0.0) | {"b_dec": torch.zeros(D_IN)}
    keep = torch.empty(0, dtype=torch.int64)
    screened, plain = (encode(sae, params, x, torch.float32, keep, rule) for rule in ("always", "never"))
    assert torch.equal(screened.pattern.positions, plain.pattern.positions)
    assert (screened.entry_pre_acts > 0.7).all()

"""The screen rules out no entry: adversarial and random factors, and bounds that are too small are caught."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from saepipe.train.sae import encoding as encoding_module
from saepipe.train.sae import screen as screen_module
from saepipe.train.sae import upper_bounds as upper_bounds_module
from saepipe.train.sae.base import Architecture, Params, product
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.sae.encoding import encode
from saepipe.train.sae.gated import Gated
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.screen import Screen, gamma
from saepipe.train.sae.topk import TopK
from saepipe.train.sae.upper_bounds import ULP

pytestmark = pytest.mark.quick

D_IN, D_SAE, BATCH = 48, 160, 64
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
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


def screen_of(params: Params, center: Tensor | None = None, scale: float | Tensor = 1.0) -> Screen:
    W_enc = params["W_enc"]
    return Screen.of(W_enc, params["b_enc"], W_enc.new_zeros(len(W_enc)) if center is None else center, scale)


def missed(
    sae: Architecture, params: Params, x: Tensor, center: Tensor | None = None, scale: float | Tensor = 1.0
) -> int:
    """Counts the entries of the whole product, and those whose slope is estimated, that the screen rules out."""
    screened = screen_of(params, center, scale).entries(sae, params, x)
    assert screened is not None
    exact = product(x, params["W_enc"], params["b_enc"])
    return int((_needed(sae, params, exact) & screened[0].dense_or(screened[1], -torch.inf).isinf()).sum())


def _needed(sae: Architecture, params: Params, pre_acts: Tensor) -> Tensor:
    needed, candidates = torch.zeros_like(pre_acts, dtype=torch.bool), sae.candidates(params, pre_acts)
    assert candidates is not None
    needed.view(-1)[candidates.positions] = True
    near = sae.near(params, pre_acts)
    return needed if near is None else needed | near


def params_of(W: Tensor, b_enc: Tensor, threshold: float) -> Params:
    """Returns parameters with encoder directions W (d_sae, d_in)."""
    return {"W_enc": W.T, "b_enc": b_enc, "threshold": torch.full((len(W),), threshold)}


def on_device(params: Params) -> Params:
    return {name: value.to(DEVICE) for name, value in params.items()}


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


def on_the_edge_of_stored_rows(seed: int, level: float, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x, W, b_enc as `on_the_edge`, for scaled bfloat16 rows far from 0, and their centre.

    What rounding takes from each latent's direction points along one token less the centre.
    """
    center = 30 * randn(seed + 3, D_IN).abs()
    rows = ((center + randn(seed, BATCH, D_IN)) / scale).bfloat16().float()
    x = rows * scale - center
    W = 1 + torch.rand(D_SAE, D_IN, generator=torch.Generator().manual_seed(seed + 1))
    part = x[torch.arange(D_SAE) % BATCH]
    W = (W.bfloat16().float() + 0.9 * ULP / 2 * part / part.abs().amax(1, keepdim=True)) / scale
    W *= torch.where(torch.arange(D_SAE) % 3 == 0, -1.0, 1.0).unsqueeze(1)  # what is lost points away from the token
    own = (x.double() @ W.T.double())[torch.arange(D_SAE) % BATCH, torch.arange(D_SAE)].float()
    return x, W, level * (1 + 1e-5) + 1e-3 - own, center


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("level", [0.0, 0.7])
@pytest.mark.parametrize("scale", [1.0, 0.0371])
@pytest.mark.parametrize("seed", range(3))
def test_entries_of_stored_rows_within_the_bound_of_the_floor_are_kept(
    seed: int, level: float, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, W, b_enc, center = on_the_edge_of_stored_rows(seed, level, scale)
    b_enc -= 500 * (torch.arange(D_SAE) >= BATCH)
    sae: Architecture = JumpReLU(d_sae=D_SAE, bandwidth=1e-6) if level else ReLU(d_sae=D_SAE)
    params = params_of(W, b_enc, level)
    assert _needed(sae, params, product(x, params["W_enc"], b_enc)).sum() >= BATCH / 2
    assert missed(sae, params, x, center, scale) == 0
    norm = screen_module._norm
    monkeypatch.setattr(screen_module, "_norm", lambda rows: norm(rows) / 2)
    assert missed(sae, params, x, center, scale) > 0


def test_neither_the_centre_nor_the_scale_of_stored_rows_widens_the_bound() -> None:
    """About half of the bound that the same tokens have without them: nothing is rounded but the directions."""
    scale, center = 0.0371, 10 * randn(0, D_IN)
    x = ((randn(1, BATCH, D_IN) + center) / scale).bfloat16().float() * scale - center
    params = params_of(randn(2, D_SAE, D_IN), torch.zeros(D_SAE), 0.0)
    spread, unaware = (screen_of(params, *told)._bounds(x).spread for told in ((center, scale), ()))
    assert (spread < 0.75 * unaware).all()
    per_channel = torch.full((D_IN,), scale)
    torch.testing.assert_close(screen_of(params, center, per_channel)._bounds(x).spread, spread)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("seed", range(4))
def test_no_entry_is_missed_whatever_centre_and_scale(seed: int) -> None:
    """Also if they are not those of the rows, or very unlike each other."""
    x, W, center = randn(seed, BATCH, D_IN), randn(seed + 50, D_SAE, D_IN), randn(seed + 9, D_IN)
    params = params_of(W, -(x @ W.T).quantile(0.97, dim=0), 0.5)
    for center_size in (0.0, 1.0, 1e3):
        for scale in (1.0, 1e-9, 3e9, torch.logspace(-5, 5, D_IN)):
            for name in ("relu", "jumprelu", "topk"):
                assert missed(SAES[name], params, x, center_size * center, scale) == 0


def truncated_sums(left: Tensor, right: Tensor) -> Tensor:
    """Multiplies (num, n) by (n, other) as tensor cores may: 8 products and the sum before them are cut off below the
    last of 24 bits of the largest, towards 0."""
    total = torch.zeros(len(left), right.shape[1], dtype=torch.float64)
    for start in range(0, left.shape[1], 8):
        some = slice(start, start + 8)
        parts = torch.cat([total[None], (left[:, some, None].double() * right[None, some].double()).movedim(1, 0)])
        unit = torch.exp2(parts.abs().amax(0).clamp_min(1e-300).log2().floor() - 23)
        total = ((parts / unit).trunc() * unit).sum(0)
    return total


@pytest.mark.parametrize("unit", [screen_module.UNIT["cuda"], screen_module.UNIT["cuda"] / 4])
def test_gamma_of_tensor_cores_covers_sums_that_are_cut_off(unit: float) -> None:
    """Each small product is just below the last bit of the first. A quarter of the unit would not cover that."""
    n = 2048
    left, right = torch.full((1, n), 0.996 * 2.0**-11), torch.full((n, 1), 0.996 * 2.0**-11)
    left[0, 0], right[0, 0] = 1.0, 2.0
    left, right = left.bfloat16(), right.bfloat16()
    error = (truncated_sums(left, right) - left.double() @ right.double()).abs()
    covered = error <= gamma(n, unit) * left.double().norm() * right.double().norm()
    assert bool(covered) is (unit == screen_module.UNIT["cuda"])


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


@pytest.mark.cuda
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("level", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(3))
def test_a_gpu_misses_no_entry(seed: int, level: float) -> None:
    """Entries within the bound, from what is lost of tokens and of directions, and those of many random products."""
    sae: Architecture = JumpReLU(d_sae=D_SAE, bandwidth=1e-6) if level else ReLU(d_sae=D_SAE)
    x, W, b_enc = on_the_edge(seed, level)
    assert missed(sae, on_device(params_of(W, b_enc + 1e-3, level)), x.to(DEVICE)) == 0
    x, W, b_enc, center = on_the_edge_of_stored_rows(seed, level, 0.0371)
    assert missed(sae, on_device(params_of(W, b_enc, level)), x.to(DEVICE), center.to(DEVICE), 0.0371) == 0
    x, W = randn(seed, 256, 2304), randn(seed + 1, 4096, 2304)
    params = params_of(W, -(x @ W.T).quantile(0.97, dim=0), level)
    assert missed(sae.model_copy(update={"d_sae": 4096}), on_device(params), x.to(DEVICE)) == 0


def test_candidates_are_few_and_their_values_exact() -> None:
    x, W = randn(0, 128, 256), torch.nn.functional.normalize(randn(1, 2048, 256), dim=1)
    params = params_of(W, torch.full((2048,), -2.3), 0.0)
    screened = screen_of(params).entries(ReLU(d_sae=2048), params, x)
    assert screened is not None
    candidates, values = screened
    exact = product(x, params["W_enc"], params["b_enc"])
    assert candidates.num_entries < 3 * (exact > 0).sum()
    torch.testing.assert_close(values, candidates.values_of(exact), rtol=1e-5, atol=1e-5)


def test_pre_activations_that_matter_only_by_being_near_are_not_computed() -> None:
    """They are within the bounds, and those of active entries exact."""
    x, W = randn(0, BATCH, D_IN), randn(1, D_SAE, D_IN) / D_IN**0.5
    sae, params = JumpReLU(d_sae=D_SAE, bandwidth=1.0), params_of(W, torch.zeros(D_SAE), 2.2)
    found = screen_of(params).entries(sae, params, x)
    assert found is not None
    pattern, values = found
    exact = pattern.values_of(product(x, params["W_enc"], params["b_enc"]))
    near = (exact > 1.7) & (exact < 2.7)
    rough = (values - exact).abs() > 1e-5
    assert 0.5 * near.sum() < rough.sum() < near.sum()
    assert not (rough & (exact > 2.2)).any()
    assert torch.equal((values > 1.7) & (values < 2.7), near)
    torch.testing.assert_close(values, exact, rtol=0.02, atol=0.05)


def test_a_pre_activation_with_a_bound_that_is_no_number_is_computed() -> None:
    sae, params = JumpReLU(d_sae=3, bandwidth=1.0), {"threshold": torch.full((3,), 2.0)}
    nan, latents = float("nan"), torch.arange(3, dtype=torch.int32)
    undecided = sae.undecided(params, torch.tensor([nan, 1.9, 1.9]), torch.tensor([1.6, nan, 1.6]), latents)
    assert undecided.tolist() == [True, True, False]


@pytest.mark.parametrize("name", sorted(SAES))
def test_a_screen_on_cuda_chooses_alike(patient: None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole batch at once, bounds compared as numbers, every candidate exact: as where reading a number waits."""
    sae, x = SAES[name], randn(2, BATCH, D_IN)
    params = params_of(randn(0, D_SAE, D_IN), -randn(1, D_SAE).abs(), 3.0) | {"b_dec": randn(3, D_IN)}
    params |= {"threshold": torch.tensor(3.0)} if name == "batch_topk" else {}
    params |= {"r_mag": torch.zeros(D_SAE), "b_mag": torch.zeros(D_SAE)}
    monkeypatch.setattr(encoding_module, "PIECE", 16)
    entries = [encode(sae, params, x, torch.float32, torch.empty(0, dtype=torch.int64), "always")]
    for module in (encoding_module, screen_module, upper_bounds_module):
        monkeypatch.setattr(module, "free_to_read", lambda device: False)
    entries.append(encode(sae, params, x, torch.float32, torch.empty(0, dtype=torch.int64), "always"))
    torch.testing.assert_close(entries[1].entry_acts, entries[0].entry_acts)
    assert torch.equal(entries[1].pattern.positions, entries[0].pattern.positions)
    masks = [each.estimate.mask if each.estimate else None for each in entries]
    assert masks[0] is masks[1] is None or torch.equal(*masks)  # type: ignore[arg-type]


@pytest.mark.parametrize("b_enc", [5.0, float("nan")])
def test_many_candidates_are_left_to_the_whole_product(b_enc: float) -> None:
    params = params_of(randn(1, D_SAE, D_IN), torch.full((D_SAE,), b_enc), 0.0)
    assert screen_of(params).entries(ReLU(d_sae=D_SAE), params, randn(0, 8, D_IN)) is None


@pytest.mark.usefixtures("patient")
def test_overflowing_sums_are_candidates() -> None:
    x, W = 1e30 * randn(0, BATCH, D_IN), randn(1, D_SAE, D_IN)
    W[0] *= 1e20
    params = params_of(W, torch.full((D_SAE,), -1e32), 0.0)
    assert missed(ReLU(d_sae=D_SAE), params, x) == 0
    assert missed(JumpReLU(d_sae=D_SAE, bandwidth=1e32), params_of(W, params["b_enc"], 1e32), x) == 0


@pytest.mark.parametrize("name", sorted(SAES))
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_chosen_among_entries_is_what_is_chosen_among_all(patient: None, name: str, seed: int) -> None:
    sae, x = SAES[name], randn(seed + 2, BATCH, D_IN)
    params = params_of(randn(seed, D_SAE, D_IN), -randn(seed + 1, D_SAE).abs(), 3.0) | {"threshold": torch.tensor(3.0)}
    if name == "jumprelu":
        params["threshold"] = 2 + randn(seed + 3, D_SAE).abs()
    found = screen_of(params).entries(sae, params, x)
    assert found is not None
    pattern, values = found
    dense = product(x, params["W_enc"], params["b_enc"])
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

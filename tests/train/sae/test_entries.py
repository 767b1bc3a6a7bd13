"""A sparse step gives the same numbers as a dense one: values, gradients, statistics, states and training curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from saepipe.data.config.component import import_members
from saepipe.train.config import TrainConfig
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae import encoding, screen, straight_through
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.entries import Entries
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK
from saepipe.train.schedule import settings_at
from saepipe.train.step.loss import Loss, Moment, compute_loss
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import settings_now, train_step
from saepipe.train.transforms.base import Codes
from saepipe.train.transforms.latent_dropout import LatentDropout, uniform_numbers

Make = Callable[..., TrainConfig]
D_IN, D_SAE, BATCH = 24, 40, 17
CPU = torch.device("cpu")

import_members(Penalty.package)
import_members(Architecture.package)

SAES: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"k": 7},
    "batch_topk": {"k": 6.5},
    "jumprelu": {"bandwidth": 0.7, "initial_threshold": 0.4},
    "gated": {},
    "matryoshka_batch_topk": {"k": 6.5, "groups": [0.2, 0.5, 1]},
}
SCREENS = ("never", "always")
REQUIRED: dict[str, dict[str, Any]] = {"l0_target": {"l0": 5.0}}


def test_every_architecture_with_sparse_steps_is_tested_here() -> None:
    names = {name for name, member in Architecture.members.items() if getattr(member, "sparse", False)}
    assert names == set(SAES)


def loss_of(train_config: TrainConfig, params: Params, x: Tensor, dtype: torch.dtype, *, sparse: bool) -> Loss:
    """Computes the loss of step 3 of a run in which every third latent is dead."""
    recipe = Recipe(train_config, D_IN, 1.0, CPU)
    steered = fresh_state(recipe, initial_params(recipe)).steered
    states = {label: component.init_state(D_IN, D_SAE) for label, component in train_config.components()}
    uniform = torch.rand(D_SAE, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    silence = (torch.arange(D_SAE) % 3 == 0).long()
    moment = Moment(3, 20, 0, silence, 1, True, uniform, settings_now(recipe, 3, steered), states)
    return compute_loss(train_config, params, x, moment, dtype, sparse=sparse)


def leaves(train_config: TrainConfig, params: Params, dtype: torch.dtype = torch.float64) -> Params:
    """Returns the fixture's parameters and those that the architecture adds, in one dtype."""
    initial = train_config.sae.init(D_IN, 0.25, torch.Generator().manual_seed(0))
    return {name: params.get(name, value).detach().to(dtype).requires_grad_() for name, value in initial.items()}


def gradients(loss: Loss, params: Params) -> dict[str, Tensor]:
    values = torch.autograd.grad(loss.total, list(params.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(params.items(), values, strict=True)}


@pytest.mark.parametrize("piece", [5, BATCH])
@pytest.mark.parametrize("sae", SAES)
@pytest.mark.parametrize("penalty", ["none", *sorted(Penalty.members)])
def test_a_sparse_step_equals_the_dense_one(
    config: Make, params: Params, x: Tensor, sae: str, penalty: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded in pieces of 5 tokens, and at once."""
    monkeypatch.setattr(encoding, "PIECE", piece)
    settings = [{"name": penalty, "weight": 0.5, **REQUIRED.get(penalty, {})}] if penalty != "none" else []
    architecture = Architecture.parse({"name": sae, "d_sae": D_SAE, **SAES[sae]})
    assert isinstance(architecture, Architecture)
    if settings and (why := Penalty.members[penalty].parse(settings[0]).refuses(architecture)):  # type: ignore[attr-defined]
        assert sae in why or "k =" in why
        return
    train_config = config(sae=architecture.to_dict(), penalties=settings)
    parameters = leaves(train_config, params)
    if "batch_topk" in sae:
        parameters["threshold"].detach().fill_(0.5)  # a running threshold, near which candidates are looked for
    dense, sparse = (loss_of(train_config, parameters, x, torch.float64, sparse=path) for path in (False, True))
    assert isinstance(sparse.ctx.latent_acts, Entries)
    forgot = sparse.ctx.latent_acts.constant.latents is not None
    reads_all = any(penalty.reads_pre_acts(architecture) == "all" for penalty in train_config.penalties)
    assert forgot == (piece < BATCH and not reads_all)
    torch.testing.assert_close(sparse.total, dense.total)
    torch.testing.assert_close(sparse.encoded_sum, dense.encoded_sum)
    torch.testing.assert_close(sparse.statistics, dense.statistics)
    torch.testing.assert_close(sparse.states, dense.states)
    torch.testing.assert_close(dict(sparse.buffers), dict(dense.buffers))
    torch.testing.assert_close(gradients(sparse, parameters), gradients(dense, parameters))
    assert sparse.ctx.l0 == dense.ctx.l0
    for name in ("acts", "acts_sum", "pre_acts", "gate_acts"):
        torch.testing.assert_close(getattr(sparse.ctx, name), getattr(dense.ctx, name), msg=name)


@pytest.mark.parametrize("sae", SAES)
@pytest.mark.parametrize("kept", ["none", "dead"])
def test_a_screened_step_equals_the_other(config: Make, params: Params, sae: str, kept: str) -> None:
    """Nothing is missed, and values differ by the rounding of a dot product."""
    penalties = [{"name": "auxk", "weight": 0.5}] if kept == "dead" and "topk" in sae else []
    settings = {**SAES[sae], **({"bandwidth": 0.05} if sae == "jumprelu" else {})}
    made = [config(sae={"name": sae, "d_sae": D_SAE, **settings}, penalties=penalties, screen=s) for s in SCREENS]
    parameters = leaves(made[0], params, torch.float32)
    for name in {"threshold", "b_enc"} & parameters.keys():
        parameters[name].detach().add_(0.3 if name == "threshold" else -2.0)  # few are active
    x = torch.randn(600, D_IN, generator=torch.Generator().manual_seed(2))
    whole, screened = (loss_of(each, parameters, x, torch.float32, sparse=True) for each in made)
    assert isinstance(whole.ctx.latent_acts, Entries)
    assert isinstance(screened.ctx.latent_acts, Entries)
    assert torch.equal(whole.ctx.latent_acts.pattern.positions, screened.ctx.latent_acts.pattern.positions)
    torch.testing.assert_close(screened.total, whole.total)
    torch.testing.assert_close(gradients(screened, parameters), gradients(whole, parameters))
    torch.testing.assert_close(screened.ctx.pre_acts, whole.ctx.pre_acts)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_estimated_slopes_entry_by_entry_equal_those_of_one_product(
    config: Make, params: Params, x: Tensor, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bandwidth of the other tests leads to one product; with a `share` of 1 it is always entry by entry."""
    monkeypatch.setattr(straight_through, "DENSE_ABOVE", share)
    train_config = config(
        sae={"name": "jumprelu", "d_sae": D_SAE, **SAES["jumprelu"]}, penalties=[{"name": "l0", "weight": 2}]
    )
    parameters = leaves(train_config, params)
    dense, sparse = (loss_of(train_config, parameters, x, torch.float64, sparse=path) for path in (False, True))
    assert isinstance(sparse.ctx.latent_acts, Entries)
    assert sparse.ctx.latent_acts.estimate is not None
    assert (sparse.ctx.latent_acts.estimate.pattern is None) == (share == 0)
    torch.testing.assert_close(gradients(sparse, parameters), gradients(dense, parameters))


@pytest.mark.parametrize("piece", [5, BATCH])
@pytest.mark.parametrize("among", ["14 of 40", "none", "all"])
@pytest.mark.parametrize("num_latents", [1, 12, 20])
def test_the_largest_of_some_latents_are_decoded_alike(
    config: Make, params: Params, x: Tensor, num_latents: int, among: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer latents than `num_latents`, a small share of them and a large one are computed in different ways.

    In pieces of 5 tokens no pre-activation is kept, so those that are decoded are computed again.
    """
    monkeypatch.setattr(encoding, "PIECE", piece)
    train_config = config(sae={"name": "topk", "d_sae": D_SAE, **SAES["topk"]}, penalties=[])
    parameters = leaves(train_config, params)
    chosen = {"14 of 40": torch.arange(D_SAE) % 3 == 0, "none": torch.zeros(D_SAE), "all": torch.ones(D_SAE)}[among]
    weights = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    answers = []
    for sparse in (False, True):
        ctx = loss_of(train_config, parameters, x, torch.float64, sparse=sparse).ctx
        decoded = ctx.decode_largest(num_latents, chosen.bool())
        slopes = torch.autograd.grad((decoded * weights).sum(), list(parameters.values()), allow_unused=True)
        answers.append([decoded, *(torch.zeros(()) if slope is None else slope for slope in slopes)])
    assert (answers[0][0] != 0).any() == (among != "none")
    for dense, sparse_one in zip(*answers, strict=True):
        torch.testing.assert_close(sparse_one, dense)


@pytest.mark.parametrize("sae", SAES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_agree_with_float64(
    config: Make, params: Params, sae: str, dtype: torch.dtype, tolerance: float, sparse: bool
) -> None:
    """The tolerance is relative to each gradient's norm."""
    penalties = [{"name": "auxk"}] if "topk" in sae else [{"name": "l0" if sae == "jumprelu" else "l1", "weight": 0.3}]
    train_config = config(sae={"name": sae, "d_sae": D_SAE, **SAES[sae]}, penalties=penalties)
    assert_gradients_agree(train_config, params, dtype, tolerance, sparse=sparse)


def assert_gradients_agree(
    train_config: TrainConfig, params: Params, dtype: torch.dtype, tolerance: float, *, sparse: bool
) -> None:
    """Compares a step's gradients with those of the dense step in float64."""
    low = {name: p.detach().to(dtype).float().requires_grad_() for name, p in leaves(train_config, params).items()}
    high = {name: p.detach().double().requires_grad_() for name, p in low.items()}
    rows = rows_with_equal_choices(train_config, low, high, dtype)
    expected = gradients(loss_of(train_config, high, rows.double(), torch.float64, sparse=False), high)
    for name, gradient in gradients(loss_of(train_config, low, rows, dtype, sparse=sparse), low).items():
        error = (gradient.double() - expected[name]).norm() / expected[name].norm().clamp_min(1e-12)
        assert error < tolerance, f"{name}: {error:.2g}"


def rows_with_equal_choices(train_config: TrainConfig, low: Params, high: Params, dtype: torch.dtype) -> Tensor:
    """Returns x (batch, d_in) float32 for which rounding changes no choice of active, dead or near entries."""
    for seed in range(1000):
        x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(seed))
        chosen = []
        for params, rows, products in ((low, x, dtype), (high, x.double(), torch.float64)):
            ctx = loss_of(train_config, params, rows, products, sparse=False).ctx
            pre_acts = train_config.sae.pre_acts(params, rows, products)
            near = train_config.sae.near(params, pre_acts)
            dead = pre_acts.masked_fill(~ctx.dead, -torch.inf).topk(D_IN // 2).indices.sort().values
            chosen.append([ctx.acts > 0, dead, torch.zeros(()) if near is None else near])
        if all(map(torch.equal, *chosen)):
            return x
    raise AssertionError("no such rows in a thousand samples")


def run(config: Make, data: Tensor, **changes: Any) -> tuple[Recipe, TrainState, list[float]]:
    """Trains on the batches of `data` (num_steps, batch, d_in); also returns the FVU of every step."""
    train_config = config(steps=len(data), batch_size=data.shape[1], **changes)
    resolved = train_config.resolved(hook="blocks.0.hook_resid_post", num_rows=1000, device=CPU)
    recipe = Recipe(resolved, data.shape[2], 1.0, CPU)
    state = fresh_state(recipe, initial_params(recipe))
    fvus = []
    for rows in data:
        measured = train_step(recipe, state, rows, Due.LINE)
        assert measured is not None
        fvus.append(measured.fvu)
    return recipe, state, fvus


def synthetic_rows(num_steps: int, batch: int, d_in: int) -> Tensor:
    """Returns sparse combinations of twice as many directions as dimensions."""
    rng = torch.Generator().manual_seed(5)
    directions = torch.nn.functional.normalize(torch.randn(2 * d_in, d_in, generator=rng), dim=1)
    codes = torch.rand(num_steps, batch, 2 * d_in, generator=rng)
    return 3 * (codes * (codes < 0.1) * 10) @ directions


@pytest.mark.parametrize(
    ("sae", "penalties"),
    [
        ({"name": "relu"}, [{"name": "l1", "weight": 0.5}]),
        ({"name": "topk", "k": 5}, [{"name": "auxk"}]),
        ({"name": "jumprelu"}, [{"name": "l0", "weight": 0.05}]),
    ],
    ids=lambda part: part["name"] if isinstance(part, dict) else "",
)
def test_training_curves_agree_over_500_steps(
    config: Make, sae: dict[str, Any], penalties: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense, sparse, and sparse with a screen that goes on with any number of candidates."""
    monkeypatch.setattr(screen, "MOST_CANDIDATES", 1.0)
    data = synthetic_rows(500, 64, D_IN)
    settings = {"sae": {**sae, "d_sae": D_SAE}, "penalties": penalties, "optimizer": {"lr": 1e-3}}
    ways = [("never", "never"), ("always", "never"), ("always", "always")]
    curves = [run(config, data, **settings, sparse_steps=path, screen=screening)[2] for path, screening in ways]
    for other in curves[1:]:
        assert max(abs(a - b) for a, b in zip(curves[0], other, strict=True)) < 1e-4
        assert other[-1] < 0.6 * other[0]  # they learned


TRANSFORMS = [["latent_dropout"], ["inhibition"], ["batch_gate", "latent_dropout"]]


def with_transforms(sae: str, transforms: list[str]) -> dict[str, Any]:
    """Returns changes to a config; a jumprelu's penalties are those that read its estimated slopes."""
    by_sae = {"jumprelu": [{"name": "l0", "weight": 0.3, "bandwidth": 0.7}, {"name": "tanh", "weight": 0.3}]}
    penalties = [] if "topk" in sae else by_sae.get(sae, [{"name": "l1", "weight": 0.5}])
    settings = {"name": sae, "d_sae": D_SAE, **SAES[sae]}
    return {"sae": settings, "penalties": penalties, "transforms": [{"name": name} for name in transforms]}


@pytest.mark.parametrize("piece", [5, BATCH])
@pytest.mark.parametrize("sae", SAES)
@pytest.mark.parametrize("transforms", TRANSFORMS)
def test_transforms_act_alike_in_a_sparse_step(
    config: Make,
    params: Params,
    x: Tensor,
    sae: str,
    transforms: list[str],
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "PIECE", piece)
    settings = with_transforms(sae, transforms)
    train_config = config(**settings)
    parameters = leaves(train_config, params)
    dense, sparse = (loss_of(train_config, parameters, x, torch.float64, sparse=path) for path in (False, True))
    plain = loss_of(config(**{**settings, "transforms": []}), parameters, x, torch.float64, sparse=False)
    assert not torch.isclose(dense.total, plain.total)  # they do something
    torch.testing.assert_close(sparse.total, dense.total)
    torch.testing.assert_close(sparse.encoded_sum, dense.encoded_sum)
    torch.testing.assert_close(sparse.statistics, dense.statistics)
    torch.testing.assert_close(sparse.states, dense.states)
    torch.testing.assert_close(gradients(sparse, parameters), gradients(dense, parameters))
    for name in ("acts", "acts_sum", "gate_acts"):
        torch.testing.assert_close(getattr(sparse.ctx, name), getattr(dense.ctx, name), msg=name)


@pytest.mark.parametrize("sae", SAES)
@pytest.mark.parametrize("transforms", TRANSFORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_gradients_through_transforms_agree_with_float64(
    config: Make, params: Params, sae: str, transforms: list[str], dtype: torch.dtype, tolerance: float
) -> None:
    train_config = config(**with_transforms(sae, transforms))
    assert_gradients_agree(train_config, params, dtype, tolerance, sparse=True)


def test_a_transform_passes_on_slopes_of_inactive_latents(
    config: Make, params: Params, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: the threshold's gradient is -threshold / bandwidth times the sum, where a latent is near, of dropout's
    factor 1 / (1 - rate), or 0, times the slope -2 (x - x_hat) . W_dec / batch of the reconstruction error.
    """
    monkeypatch.setattr(JumpReLU, "activate_at", lambda _, params, pre_acts, latents: pre_acts)  # as of active ones
    train_config = config(**{**with_transforms("jumprelu", ["latent_dropout"]), "penalties": []})
    parameters = leaves(train_config, params)
    pre_acts = train_config.sae.pre_acts(parameters, x, torch.float64)
    near = (pre_acts - parameters["threshold"]).abs() < 0.7 / 2
    loss = loss_of(train_config, parameters, x, torch.float64, sparse=True)
    codes = Codes(lambda: pre_acts, pre_acts, parameters["W_dec"], seed=0, step=3)
    factors = (uniform_numbers(codes) >= 0.1) / 0.9
    slopes = -2 / BATCH * (x - loss.ctx.x_hat) @ parameters["W_dec"].T
    expected = -(near * factors * slopes).sum(0) * parameters["threshold"] / 0.7
    torch.testing.assert_close(gradients(loss, parameters)["threshold"], expected)
    pattern = loss.ctx.latent_acts.pattern  # type: ignore[union-attr]
    active = pre_acts > parameters["threshold"]
    assert (near & ~active).any()
    torch.testing.assert_close(loss.ctx.acts, active * pre_acts * factors)
    assert torch.equal(pattern.dense(pattern.ones()).bool(), active | near)


def test_sparse_steps_are_refused_if_unsupported(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = [{"name": "latent_dropout", "rate": 0.1}]
    config(sparse_steps="always", transforms=transforms)
    monkeypatch.setattr(LatentDropout, "keeps_zeros", False)
    with pytest.raises(Exception, match="always is impossible, since latent_dropout may turn latents on"):
        config(sparse_steps="always", transforms=transforms)


def test_settings_now_equals_settings_at(config: Make) -> None:
    recipe = Recipe(config(), D_IN, 1.0, CPU)
    assert settings_now(recipe, 3, {}) == {"l1": settings_at(recipe.config.penalties[0], 3, 20)}


class HalfTopK(TopK):
    """Keeps the largest entries of the whole batch, half of k per token: not what `candidates` of a TopK contains."""

    name: str  # type: ignore[assignment]  # without a default, so that it is no member

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        kept = self.pattern(params, pre_acts)
        return kept.dense(kept.values_of(pre_acts).relu())

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        indices = pre_acts.flatten().topk(self.k * len(pre_acts) // 2).indices
        return Pattern.of_positions(indices.sort().values, *pre_acts.shape)


@pytest.mark.parametrize("screening", SCREENS)
def test_a_derived_class_that_chooses_otherwise_is_encoded_at_once(
    params: Params, x: Tensor, screening: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "PIECE", 5)
    sae, parameters = HalfTopK(name="half", d_sae=D_SAE, k=6), {name: p.detach().float() for name, p in params.items()}
    x = x.float() * torch.linspace(0.1, 3, BATCH)[:, None]
    entries = encoding.encode(sae, parameters, x, torch.float32, torch.empty(0, dtype=torch.int64), screening)
    expected = sae.activate_training(parameters, sae.pre_acts(parameters, x))
    torch.testing.assert_close(entries.acts, expected)
    assert TopK(d_sae=D_SAE, k=6).holds("floor")
    assert not sae.holds("floor")


def test_an_estimator_that_marks_no_entries_is_refused() -> None:
    with pytest.raises(TypeError, match="Old overrides `estimate` without `near`"):

        class Old(ReLU):
            name: str  # type: ignore[assignment]

            def estimate(self, params: Params, near: Tensor, dtype: torch.dtype) -> Any:
                return None

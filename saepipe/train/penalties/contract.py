"""Contract of a penalty: checks that the tests run on every member, and `saepipe validate` on a new one.

A check takes a configured penalty and returns a sentence about what is broken, or None if nothing is.
Everything is computed in float64 on a synthetic step whose d_in, d_sae and batch all differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, ask
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.sae.encoding import encode
from saepipe.train.sae.relu import ReLU
from saepipe.train.schedule import controllers, settings_at
from saepipe.train.seeds import generator

D_IN, D_SAE, BATCH = 24, 40, 17
WARMUP_STEPS, NUM_STEPS = 60, 100
"""Steps that fill the penalty's state before it is checked, and steps of the run."""

DIFFERENTIABLE = ("pre_acts", "acts", "acts_sum", "gate_acts", "x_hat", "W_enc", "b_enc", "W_dec", "b_dec")
PER_TOKEN = ("x", "target", "pre_acts", "acts", "gate_acts", "x_hat")
PER_LATENT = {"pre_acts": 1, "acts": 1, "acts_sum": 0, "gate_acts": 1, "W_enc": 1, "b_enc": 0, "W_dec": 0}
"""Axis of the latents in each tensor of a step."""


def synthetic_step(seed: int = 0) -> StepContext:
    """Returns a step of a ReLU SAE with correlated latents, float64; all `DIFFERENTIABLE` tensors are leaves."""
    rng = generator(seed, "contract")

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    common = randn(1, D_IN)
    params = {"W_enc": 0.3 * randn(D_IN, D_SAE), "b_enc": 0.3 * randn(D_SAE), "b_dec": randn(D_IN)}
    params["W_dec"] = normalize(randn(D_SAE, D_IN) + 0.7 * common, dim=1)
    x = randn(BATCH, D_IN)
    pre_acts = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    acts = pre_acts.relu()
    values = {"pre_acts": pre_acts, "acts": acts, "acts_sum": acts.sum(0), "gate_acts": acts, **params}
    values["x_hat"] = acts @ params["W_dec"] + params["b_dec"]
    leaves: dict[str, Any] = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    activations = DenseActs(**{name: leaves.pop(name) for name in ("pre_acts", "acts", "acts_sum", "gate_acts")})
    return StepContext(
        x=x,
        target=x,
        latent_acts=activations,
        x_hat=leaves.pop("x_hat"),
        weights=leaves,
        threshold=None,
        tokens_since_fired=(torch.arange(D_SAE) % 3 == 0).long(),
        dead_after=1,
        any_dead=True,
        step=WARMUP_STEPS,
        num_steps=NUM_STEPS,
        uniform=torch.rand(D_SAE, generator=rng, dtype=torch.float64),
    )


def warm_state(penalty: Penalty, ctx: StepContext) -> State:
    """Returns the penalty's state after WARMUP_STEPS steps like `ctx`."""
    state = penalty.init_state(D_IN, D_SAE)
    with torch.no_grad():
        for step in range(WARMUP_STEPS):
            state = answer(penalty, ctx.changed(step=step), state).state
    return state


def answer(penalty: Penalty, ctx: StepContext, state: State) -> Penalised:
    """Calls the penalty on one step; a setting under a controller has its start value."""
    steered = {name: torch.tensor(steering.start).log() for name, steering in controllers(penalty).items()}
    return ask(penalty, ctx, state, settings_at(penalty, ctx.step, ctx.num_steps, steered))


def check_gradient(penalty: Penalty) -> str | None:
    """Every gradient equals the slope (central differences), and there is at least one gradient."""
    ctx = synthetic_step()
    state = warm_state(penalty, ctx)

    def value(step: StepContext) -> Tensor:
        return answer(penalty, step, state).value

    leaves = [getattr(ctx, name) for name in DIFFERENTIABLE]
    now = value(ctx)
    if not now.requires_grad:
        return "it has no gradient for any tensor of a step: its value does not depend on one, or was detached"
    optional = torch.autograd.grad(now, leaves, allow_unused=True)
    gradients = {name: g for name, g in zip(DIFFERENTIABLE, optional, strict=True) if g is not None}
    if not any(gradient.any() for gradient in gradients.values()):
        return "it has no gradient for any tensor of a step"
    for name in gradients.keys() - penalty.estimated:
        leaf = getattr(ctx, name).detach()
        direction = torch.randn(leaf.shape, generator=generator(1, name), dtype=leaf.dtype)
        ahead, behind = (
            float(value(ctx.changed(**{name: leaf + sign * direction})).detach()) for sign in (1e-6, -1e-6)
        )
        slope, expected = (ahead - behind) / 2e-6, float((gradients[name] * direction).sum())
        if abs(slope - expected) > 1e-5 * abs(expected) + 1e-8:
            return f"its gradient for {name} gives {expected:.6g}, but finite differences give {slope:.6g}"
    return None


def check_batch(penalty: Penalty) -> str | None:
    """Doubling every token leaves the value the same: no weight depends on the batch size."""
    ctx = synthetic_step()
    doubled: dict[str, Any] = {name: torch.cat([getattr(ctx, name)] * 2) for name in PER_TOKEN}
    twice = ctx.changed(**doubled, acts_sum=2 * ctx.acts_sum)
    state = warm_state(penalty, ctx)
    once_value, twice_value = (float(answer(penalty, step, state).value.detach()) for step in (ctx, twice))
    if abs(once_value - twice_value) <= 1e-5 * abs(once_value):
        return None
    return f"it is {once_value:.6g}, but {twice_value:.6g} with every token twice: divide by the batch size"


def check_latent_order(penalty: Penalty) -> str | None:
    """Reordering the latents leaves the value the same: no latent is special because of its index."""
    ctx = synthetic_step()
    order = torch.randperm(D_SAE, generator=generator(2))
    permuted: dict[str, Any] = {name: getattr(ctx, name).index_select(axis, order) for name, axis in PER_LATENT.items()}
    assert ctx.uniform is not None
    reordered = ctx.changed(**permuted, tokens_since_fired=ctx.tokens_since_fired[order], uniform=ctx.uniform[order])
    before, after = (float(answer(penalty, at, warm_state(penalty, at)).value.detach()) for at in (ctx, reordered))
    close = abs(before - after) <= 1e-6 * abs(before)
    return None if close else f"it is {before:.6g}, but {after:.6g} with the latents reordered"


def check_purity(penalty: Penalty) -> str | None:
    """Two calls give the same value, change no argument, and keep the shapes and dtypes of the state."""
    ctx = synthetic_step()
    copies = {
        name: getattr(ctx, name).detach().clone() for name in (*DIFFERENTIABLE, "x", "tokens_since_fired", "uniform")
    }
    state = warm_state(penalty, ctx)
    first, second = answer(penalty, ctx, state), answer(penalty, ctx, state)
    if not torch.equal(first.value, second.value):
        return "two calls on the same step give different values"
    if changed := [name for name, copy in copies.items() if not torch.equal(copy, getattr(ctx, name))]:
        return f"it changes its arguments in place: {', '.join(changed)}"
    initial, after = (
        {name: (t.shape, t.dtype) for name, t in s.items()} for s in (penalty.init_state(D_IN, D_SAE), first.state)
    )
    return None if initial == after else f"its state changes from {initial} to {after}"


def check_answer(penalty: Penalty) -> str | None:
    """Value and statistics are scalars; the statistics are the declared ones, each in its range."""
    ctx = synthetic_step()
    result = answer(penalty, ctx, warm_state(penalty, ctx))
    if not float(result.value.detach()) >= 0:
        return f"its value is {float(result.value.detach()):.6g}; wanted: at least 0"
    if result.statistics.keys() != penalty.statistics.keys():
        return f"it declares the statistics {sorted(penalty.statistics)} but returns {sorted(result.statistics)}"
    for name, (low, high) in penalty.statistics.items():
        tensor = result.statistics[name]
        if tensor.requires_grad or not low <= float(tensor) <= high:
            return f"its statistic {name} is {tensor}, not a scalar without gradient in [{low:g}, {high:g}]"
    return None


def check_stacking(penalty: Penalty) -> str | None:
    """Two runs stacked under torch.func.vmap have the same values as each run alone."""
    runs = [synthetic_step(seed) for seed in (0, 1)]
    names = (*DIFFERENTIABLE, "x", "uniform")
    stacked = {name: torch.stack([getattr(run, name).detach() for run in runs]) for name in names}

    def two_steps(tensors: dict[str, Any]) -> Tensor:
        first = runs[0].changed(**tensors, step=0)
        state = answer(penalty, first, penalty.init_state(D_IN, D_SAE)).state
        second = answer(penalty, first.changed(step=1), state)
        return torch.stack([second.value, *(value.to(second.value.dtype) for value in second.statistics.values())])

    try:
        together = torch.func.vmap(two_steps)(stacked)
    except RuntimeError as error:
        return f"it cannot be stacked: {str(error).splitlines()[0]}"
    alone = torch.stack([two_steps({name: tensor[run] for name, tensor in stacked.items()}) for run in range(2)])
    return None if torch.allclose(together, alone) else f"stacked it is {together.tolist()}, alone {alone.tolist()}"


def check_sparse_step(penalty: Penalty) -> str | None:
    """A sparse step gives the same value as a dense one, and the same gradients for the parameters."""
    ctx = synthetic_step()
    sae = ReLU(d_sae=D_SAE)
    params = {name: getattr(ctx, name).detach().requires_grad_() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    pre_acts, entries = sae.pre_acts(params, ctx.x, ctx.x.dtype), encode(sae, params, ctx.x, ctx.x.dtype)
    acts = pre_acts.relu()
    whole = DenseActs(pre_acts=pre_acts, acts=acts, acts_sum=acts.sum(0), gate_acts=acts)
    x_hats = sae.decode(params, acts), entries.reconstructions(sae, params)[-1]
    results = []
    for activations, x_hat in zip((whole, entries), x_hats, strict=True):
        step = ctx.changed(**params, latent_acts=activations, x_hat=x_hat)
        value = answer(penalty, step, warm_state(penalty, ctx)).value
        gradients = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
        results.append([value.detach(), *gradients])
    for name, dense, sparse in zip(("value", *params), *results, strict=True):
        if not torch.allclose(dense, sparse, rtol=1e-6, atol=1e-9):
            label = name if name == "value" else f"gradient for {name}"
            return f"its {label} in a sparse step is off by {float((dense - sparse).abs().max()):.3g}: see StepContext"
    return None


def check_parts(penalty: Penalty) -> str | None:
    """If it says that it is a sum over latents, the values on parts of the latents and tokens add up to the whole."""
    if not penalty.sums_over_latents():
        return None
    if penalty.init_state(D_IN, D_SAE):
        return "it is a sum over latents with a state, which its parts cannot share"
    ctx, split = synthetic_step(), (slice(None, 7), slice(7, None))
    whole = float(answer(penalty, ctx, {}).value.detach())
    parts = [(tokens, latents) for tokens in split for latents in split]
    added = sum(len(ctx.x[tokens]) / BATCH * _value_on(penalty, ctx, tokens, latents) for tokens, latents in parts)
    close = abs(added - whole) <= 1e-9 * abs(whole)
    return None if close else f"it says that it is a sum over latents, but is {whole:.6g}, and its parts {added:.6g}"


def _value_on(penalty: Penalty, ctx: StepContext, tokens: slice, latents: slice) -> float:
    """Returns the value on some of a step's tokens and latents."""
    part: dict[str, Any] = {name: getattr(ctx, name) for name in {*PER_TOKEN, *PER_LATENT}}
    part |= {name: part[name][tokens] for name in PER_TOKEN}
    part |= {name: part[name][(slice(None),) * axis + (latents,)] for name, axis in PER_LATENT.items()}
    part |= {"acts_sum": part["acts"].sum(0), "tokens_since_fired": ctx.tokens_since_fired[latents]}
    return float(answer(penalty, ctx.changed(**part), {}).value.detach())


Check = Callable[[Penalty], str | None]

CHECKS: dict[str, Check] = {
    "gradient": check_gradient,
    "batch size": check_batch,
    "order of latents": check_latent_order,
    "purity": check_purity,
    "answer": check_answer,
    "stacking": check_stacking,
    "sparse step": check_sparse_step,
    "parts": check_parts,
}


def first_breach(penalty: Penalty, *, stacked: bool = True) -> str | None:
    """Returns the first check that a penalty fails, and how; `stacked`: it must also work in stacked runs."""
    for name, check in CHECKS.items():
        if (stacked or name != "stacking") and (problem := check(penalty)):
            return f"it breaks the contract of penalties ({name}): {problem}"
    return None

"""What every penalty keeps to: checks that the tests run over each member, and `saepipe validate` over a new one.

A check takes a penalty as configured and says in a sentence what is broken; it answers None where all is well.
Everything is computed in float64 on a made-up step whose d_in, d_sae and batch all differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.sae.entries import encode
from saepipe.train.sae.relu import ReLU
from saepipe.train.seeds import generator
from saepipe.train.setting import controllers, settings_at

D_IN, D_SAE, BATCH = 24, 40, 17
WARM, NUM_STEPS = 60, 100
"""Steps that fill the penalty's state before it is looked at, of a run of so many."""

REACHED = ("pre_acts", "acts", "acts_sum", "gate_acts", "x_hat", "W_enc", "b_enc", "W_dec", "b_dec")
PER_TOKEN = ("x", "pre_acts", "acts", "gate_acts", "x_hat")
PER_LATENT = {"pre_acts": 1, "acts": 1, "acts_sum": 0, "gate_acts": 1, "W_enc": 1, "b_enc": 0, "W_dec": 0}
"""The axis of the latents in each tensor of a step."""


def made_up_step(seed: int = 0) -> StepContext:
    """A step of a ReLU SAE, float64, with correlated latents; every tensor that a gradient may reach is a leaf."""
    rng = generator(seed, "contract")

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    common = draw(1, D_IN)
    params = {"W_enc": 0.3 * draw(D_IN, D_SAE), "b_enc": 0.3 * draw(D_SAE), "b_dec": draw(D_IN)}
    params["W_dec"] = normalize(draw(D_SAE, D_IN) + 0.7 * common, dim=1)
    x = draw(BATCH, D_IN)
    pre_acts = (x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]
    acts = pre_acts.relu()
    values = {"pre_acts": pre_acts, "acts": acts, "acts_sum": acts.sum(0), "gate_acts": acts, **params}
    values["x_hat"] = acts @ params["W_dec"] + params["b_dec"]
    leaves: dict[str, Any] = {name: value.detach().clone().requires_grad_() for name, value in values.items()}
    return StepContext(
        x=x,
        **leaves,
        threshold=None,
        dead=torch.arange(D_SAE) % 3 == 0,
        any_dead=True,
        step=WARM,
        num_steps=NUM_STEPS,
        uniform=torch.rand(D_SAE, generator=rng, dtype=torch.float64),
    )


def warm_state(penalty: Penalty, ctx: StepContext) -> State:
    """What the penalty remembers after WARM steps like `ctx`."""
    state = penalty.init_state(D_IN, D_SAE)
    with torch.no_grad():
        for step in range(WARM):
            state = answer(penalty, replace(ctx, step=step), state).state
    return state


def answer(penalty: Penalty, ctx: StepContext, state: State) -> Penalised:
    """Of one step; a setting under a controller stands where it starts."""
    steered = {name: torch.tensor(one.start).log() for name, one in controllers(penalty).items()}
    return penalty(ctx, state, settings_at(penalty, ctx.step, ctx.num_steps, steered))


def check_gradient(penalty: Penalty) -> str | None:
    """Wherever it lets a gradient through, that is the slope (central differences); and somewhere it does."""
    ctx = made_up_step()
    state = warm_state(penalty, ctx)

    def value(at: StepContext) -> Tensor:
        return answer(penalty, at, state).value

    found = torch.autograd.grad(value(ctx), [getattr(ctx, name) for name in REACHED], allow_unused=True)
    gradients = {name: g for name, g in zip(REACHED, found, strict=True) if g is not None}
    if not any(gradient.any() for gradient in gradients.values()):
        return "no tensor of a step gets a gradient from it"
    for name in gradients.keys() - penalty.estimated:
        leaf = getattr(ctx, name).detach()
        direction = torch.randn(leaf.shape, generator=generator(1, name), dtype=leaf.dtype)
        ahead, behind = (
            float(value(replace(ctx, **{name: leaf + sign * direction})).detach()) for sign in (1e-6, -1e-6)
        )
        slope, expected = (ahead - behind) / 2e-6, float((gradients[name] * direction).sum())
        if abs(slope - expected) > 1e-5 * abs(expected) + 1e-8:
            return f"its gradient for {name} gives {expected:.6g} where finite differences give {slope:.6g}"
    return None


def check_batch(penalty: Penalty) -> str | None:
    """The same tokens twice have the same value: no weight depends on the batch size."""
    ctx = made_up_step()
    doubled: dict[str, Any] = {name: torch.cat([getattr(ctx, name)] * 2) for name in PER_TOKEN}
    twice = replace(ctx, **doubled, acts_sum=2 * ctx.acts_sum)
    state = warm_state(penalty, ctx)
    one, two = (float(answer(penalty, at, state).value.detach()) for at in (ctx, twice))
    close = abs(one - two) <= 1e-5 * abs(one)
    return None if close else f"it is {one:.6g}, and {two:.6g} with every token twice: divide by the batch"


def check_latent_order(penalty: Penalty) -> str | None:
    """Latents in another order have the same value: none is special by its place."""
    ctx = made_up_step()
    order = torch.randperm(D_SAE, generator=generator(2))
    permuted: dict[str, Any] = {name: getattr(ctx, name).index_select(axis, order) for name, axis in PER_LATENT.items()}
    assert ctx.uniform is not None
    other = replace(ctx, **permuted, dead=ctx.dead[order], uniform=ctx.uniform[order])
    one, two = (float(answer(penalty, at, warm_state(penalty, at)).value.detach()) for at in (ctx, other))
    return None if abs(one - two) <= 1e-6 * abs(one) else f"it is {one:.6g}, and {two:.6g} with the latents reordered"


def check_purity(penalty: Penalty) -> str | None:
    """Asked twice it answers the same, writes on nothing it was given, and its state keeps its form."""
    ctx = made_up_step()
    given = {field.name: getattr(ctx, field.name) for field in fields(ctx)}
    copies = {name: item.detach().clone() for name, item in given.items() if isinstance(item, Tensor)}
    state = warm_state(penalty, ctx)
    first, second = answer(penalty, ctx, state), answer(penalty, ctx, state)
    if not torch.equal(first.value, second.value):
        return "asked twice about one step, it answers differently"
    if written := [name for name, copy in copies.items() if not torch.equal(copy, getattr(ctx, name))]:
        return f"it writes on {', '.join(written)}"
    forms = [
        {name: (t.shape, t.dtype) for name, t in s.items()} for s in (penalty.init_state(D_IN, D_SAE), first.state)
    ]
    return None if forms[0] == forms[1] else f"its state changes from {forms[0]} to {forms[1]}"


def check_answer(penalty: Penalty) -> str | None:
    """Value and statistics are scalars; the statistics are those declared, each in its range."""
    ctx = made_up_step()
    found = answer(penalty, ctx, warm_state(penalty, ctx))
    if found.value.shape != () or not float(found.value.detach()) >= 0:
        return f"its value is no scalar of at least 0: {found.value.detach()}"
    if found.statistics.keys() != penalty.statistics.keys():
        return f"it declares the statistics {sorted(penalty.statistics)} and answers {sorted(found.statistics)}"
    for name, (low, high) in penalty.statistics.items():
        tensor = found.statistics[name]
        if tensor.shape != () or tensor.requires_grad or not low <= float(tensor) <= high:
            return f"its statistic {name} is {tensor}, not a scalar without gradient in [{low:g}, {high:g}]"
    return None


def check_stacking(penalty: Penalty) -> str | None:
    """Two runs side by side under torch.func.vmap have the values that each has alone."""
    runs = [made_up_step(seed) for seed in (0, 1)]
    names = (*REACHED, "x", "uniform")
    stacked = {name: torch.stack([getattr(run, name).detach() for run in runs]) for name in names}

    def twice(tensors: dict[str, Any]) -> Tensor:
        here = replace(runs[0], **tensors, step=0)
        state = answer(penalty, here, penalty.init_state(D_IN, D_SAE)).state
        return answer(penalty, replace(here, step=1), state).value

    try:
        together = torch.func.vmap(twice)(stacked)
    except RuntimeError as error:
        return f"it cannot be stacked: {str(error).splitlines()[0]}"
    alone = torch.stack([twice({name: tensor[run] for name, tensor in stacked.items()}) for run in range(2)])
    return None if torch.allclose(together, alone) else f"stacked it is {together.tolist()}, alone {alone.tolist()}"


def check_sparse_step(penalty: Penalty) -> str | None:
    """In a sparse step it has the value of a dense one, and the same gradients for the parameters."""
    ctx = made_up_step()
    sae = ReLU(d_sae=D_SAE)
    params = {name: getattr(ctx, name).detach().requires_grad_() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    pre_acts = sae.pre_acts(params, ctx.x, ctx.x.dtype)
    whole: dict[str, Any] = {"pre_acts": pre_acts, "acts": (acts := pre_acts.relu()), "acts_sum": acts.sum(0)}
    entries = encode(sae, params, ctx.x, ctx.x.dtype)
    made: dict[str, Any] = {"pre_acts": entries.all_pre_acts(), "acts": (acts := entries.all_acts())}
    made |= {"acts_sum": entries.acts_sum(), "entries": entries}
    found = []
    for step, x_hat in (
        (whole, sae.decode(params, whole["acts"])),
        (made, entries.decode(params["W_dec"]) + params["b_dec"]),
    ):
        here = replace(ctx, **params, **step, gate_acts=step["acts"], x_hat=x_hat)
        value = answer(penalty, here, warm_state(penalty, ctx)).value
        gradients = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
        found.append([value.detach(), *gradients])
    for name, dense, sparse in zip(("value", *params), *found, strict=True):
        if not torch.allclose(dense, sparse, rtol=1e-6, atol=1e-9):
            what = name if name == "value" else f"gradient for {name}"
            return f"its {what} in a sparse step is off by {float((dense - sparse).abs().max()):.3g}: see StepContext"
    return None


Check = Callable[[Penalty], str | None]

CHECKS: dict[str, Check] = {
    "gradient": check_gradient,
    "batch size": check_batch,
    "order of latents": check_latent_order,
    "purity": check_purity,
    "answer": check_answer,
    "stacking": check_stacking,
    "sparse step": check_sparse_step,
}

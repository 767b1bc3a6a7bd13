"""The dry step: finds before the first step what would break a run.

Every component is trained for two steps on random rows whose d_in, d_sae and batch all differ, so that swapped axes
fail at once: study A normalised and multiplied W_dec along the wrong axis, which d_in = d_sae concealed. Then the loss
and its gradient are computed on two real batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from saepipe.data.config.plugin_errors import summary
from saepipe.data.errors import is_out_of_memory
from saepipe.data.folders.health import Finding
from saepipe.train.config import TrainConfig, labels
from saepipe.train.config_sections import DeadConfig
from saepipe.train.freeze import frozen_names
from saepipe.train.health.finished import check_finite, check_unit_rows
from saepipe.train.health.raised import locate, raised_by_component
from saepipe.train.penalties.base import Penalty
from saepipe.train.seeds import generator
from saepipe.train.step.loss import Loss
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, Target, TrainState, fresh_state, initial_params
from saepipe.train.step.step import step_loss, train_step

D_IN, D_OUT, BATCH, STEPS = 24, 20, 17, 2


def dry_step(recipe: Recipe, state: TrainState, batches: Iterable[Tensor]) -> list[Finding]:
    """H14, H7 and H15 of a run that is about to begin or to be resumed. Changes nothing.

    Args:
        recipe: of the run.
        state: at the step that comes next.
        batches: two batches of raw rows (batch, d_in).
    """
    findings = [finding for part in separate_parts(recipe.config) for finding in check_part(recipe, *part)]
    if findings:
        return findings
    for rows in batches:
        loss = step_loss(recipe, state, recipe.scaled(rows))
        if findings := check_loss(loss, state):
            break
    if names := frozen_names(recipe.config.freeze):
        loss = step_loss(recipe, _thawed(state, names), recipe.scaled(rows))
    return [*findings, *check_differentiable(recipe.config, loss)]


def _thawed(state: TrainState, names: Collection[str]) -> TrainState:
    """Returns the state with gradients for what is frozen, since a penalty may be about nothing else."""
    leaves = {name: state.buffers[name].detach().requires_grad_() for name in names}
    return replace(state, buffers={**state.buffers, **leaves})


def separate_parts(config: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Yields, by name, configs of the architecture alone and of the architecture with one penalty or transform."""
    bare = {"penalties": (), "transforms": ()}
    yield f"architecture {config.sae.name}", config.model_copy(update=bare)
    for label, component in config.components():
        key, family = ("penalties", "penalty") if isinstance(component, Penalty) else ("transforms", "transform")
        yield f"{family} {label}", config.model_copy(update={**bare, key: (component,)})


def check_part(recipe: Recipe, name: str, config: TrainConfig) -> list[Finding]:
    """H14 and H7: two steps on random rows, with every third latent dead."""
    tiny = tiny_recipe(recipe, config)
    try:
        state = two_steps(tiny)
    except Exception as error:
        when = f"with d_in {tiny.d_in}, d_sae {config.sae.d_sae} and batch {tiny.config.batch_size}"
        finding = raised_by_component(config, error, when)
        if not is_shape_error(error):
            if finding is None:
                raise
            return [replace(finding, about=name)]
        where = f" at {located[1]}" if (located := locate(config, error)) else ""
        message = f"{name} fails {when}{where}: {summary(error)}"
        return [Finding("H14", "error", f"{message}; it may confuse two of these axes", name)]
    findings = check_finite(state) or check_unit_rows(state.all_params["W_dec"], config.health.unit_tolerance)
    return [finding.prefixed(f"{name} on random rows: ", about=name) for finding in findings]


def tiny_recipe(recipe: Recipe, config: TrainConfig) -> Recipe:
    """Returns a recipe whose d_in, d_sae and batch all differ, and a transcoder's d_out from them."""
    d_sae = config.sae.d_sae
    d_in, batch = D_IN + (d_sae == D_IN), BATCH + (d_sae == BATCH)
    changes = {"steps": max(STEPS + 1, recipe.num_steps), "batch_size": batch, "dead": DeadConfig(after_tokens=1)}
    target = Target(next(width for width in range(D_OUT, 0, -1) if width not in (d_sae, d_in, batch)), 1.0)
    changed = replace(recipe, config=config.model_copy(update=changes), d_in=d_in, scale=1.0, mesh=None)
    if recipe.scales is not None:
        num = len(recipe.scales)  # all but the first are as narrow as can be
        return replace(changed, d_in=d_in + num, widths=(d_in + 1, *(1,) * (num - 1)), scales=(1.0,) * num)
    return replace(changed, target=target if recipe.target else None)


def two_steps(tiny: Recipe) -> TrainState:
    """Trains from the start on random rows, with every third latent dead, and returns the state."""
    state, batch = fresh_state(tiny, initial_params(tiny)), tiny.config.batch_size
    width = tiny.d_in + (tiny.d_out if tiny.target else 0)
    for rows in torch.randn(STEPS, batch, width, generator=generator(tiny.config.seed, "dry")):
        state.tokens_since_fired[::3] = batch
        train_step(tiny, state, rows, Due.GRADIENTS)  # reads the statistics too
    return state


def is_shape_error(error: Exception) -> bool:
    """Returns whether torch refused shapes or an index, by its wording."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError | IndexError):
        return False
    words = ("size", "shape", "dimension", "out of bounds", "out of range", "broadcast", "expand")
    return isinstance(error, IndexError) or any(word in str(error) for word in words)


def check_loss(loss: Loss, state: TrainState) -> list[Finding]:
    """H7: every term and the gradient of every parameter are finite."""
    broken = [name for name, term in loss.terms.items() if not term.weighted.isfinite()]
    gradients = torch.autograd.grad(loss.total, list(state.params.values()), retain_graph=True)
    broken += [
        f"the gradient of {name}"
        for name, gradient in zip(state.params, gradients, strict=True)
        if not gradient.isfinite().all()
    ]
    message = f"not finite before step {state.step + 1}: {', '.join(broken)}; check the data's scale and the weights"
    return [Finding("H7", "error", message)] if broken else []


def check_differentiable(config: TrainConfig, loss: Loss) -> list[Finding]:
    """H15: every penalty with a weight has a gradient for some parameter."""
    message = "{} has no gradient for any parameter, so it cannot affect training; use a surrogate gradient"
    return [
        Finding("H15", "error", message.format(label), label)
        for label, penalty in zip(labels(config.penalties), config.penalties, strict=True)
        if penalty.weight != 0 and not penalty.may_rest and not loss.terms[label].value.requires_grad
    ]

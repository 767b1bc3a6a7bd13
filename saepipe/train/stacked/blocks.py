"""Small sparse runs trained as one: their active entries are blocks along the diagonal of one pattern.

Each run's encoder chooses its entries, and each run's penalties see it alone, so architecture, k, penalties and
settings are its own. The kernels of `saepipe.train.kernels` then decode, and compute gradients, once for all. They sum
row by row, so on a CPU every run has the bits that it has alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, product
from saepipe.train.sae.encoding import PIECE, is_screened
from saepipe.train.sae.entries import Entries
from saepipe.train.sae.pre_acts import PreActs
from saepipe.train.stacked.optim import update_blocks
from saepipe.train.stacked.slices import shared
from saepipe.train.stacked.stack import MOVING, why_not_stackable
from saepipe.train.step.learning_rate import learning_rate
from saepipe.train.step.loss import Forward, Loss, loss_after
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import next_moment, record, steer


class Blocks:
    """Makes one step of each of several sparse runs; each ends where it would end alone.

    The parameters of the runs' states become slices of shared tensors (num_runs, ...), as in a `Stack`.
    """

    def __init__(self, runs: Sequence[tuple[Recipe, TrainState]]) -> None:
        """Takes over runs of one shape that are at the same step, whichever it is."""
        self._runs = runs
        self._params: Params = shared([state.params for _, state in runs])

    def step(self, x: Tensor) -> None:
        """Trains every run on x (batch, d_in), float32 and scaled."""
        params = {name: value.detach().requires_grad_() for name, value in self._params.items()}
        losses = self._losses(params, x)
        gradients = self._gradients(params, losses)
        rates = []
        for (recipe, state), loss in zip(self._runs, losses, strict=True):
            state.steered = steer(recipe, state.step, loss, state.steered)
            optimizer, dead = recipe.config.optimizer, recipe.config.dead
            rates.append(learning_rate(optimizer, dead, state.step, recipe.num_steps))
        stretches = [(len(list(same)), lr) for lr, same in groupby(rates)]
        own = [(state.params, state.moments) for _, state in self._runs]
        update_blocks(params, gradients, own, stretches, self._runs[0][0].config.optimizer)
        for (_, state), loss in zip(self._runs, losses, strict=True):
            record(state, loss, loss.factors)
            state.num_summed += 1
            state.step += 1

    def _gradients(self, params: Params, losses: Sequence[Loss]) -> Params:
        """Returns every run's gradient of its own loss, (num_runs, ...) each.

        Those that a penalty sends to parameters directly arrive at the run's own leaves.
        """
        own = [value for _, state in self._runs for value in state.params.values()]
        weights = [loss.factors[:, 1] for loss in losses]
        every = torch.autograd.grad(
            [loss.values for loss in losses], [*params.values(), *own], weights, allow_unused=True
        )
        together = dict(zip(params, every, strict=False))
        for index, gradient in enumerate(every[len(params) :]):
            if gradient is not None:
                run, name = divmod(index, len(params))
                together[list(params)[name]][run].add_(gradient)
        return together

    def _losses(self, params: Params, x: Tensor) -> list[Loss]:
        """Computes the loss of every run; `params` are the leaves that they share."""
        recipes = [recipe.at(state.step) for recipe, state in self._runs]
        states = [state for _, state in self._runs]
        forwards = _forwards([recipe.config.sae for recipe in recipes], params, states, x)
        return [
            loss_after(forward, recipe.config, state.all_params, x, next_moment(recipe, state))
            for recipe, state, forward in zip(recipes, states, forwards, strict=True)
        ]


def _forwards(saes: Sequence[Architecture], params: Params, states: Sequence[TrainState], x: Tensor) -> list[Forward]:
    """Computes the forward pass of every run, from parameters (num_runs, ...) and one batch (batch, d_in)."""
    num_runs, d_sae, d_in = params["W_dec"].shape
    bias = autograd.carrying_bias(params["b_enc"], params["b_dec"], params["W_enc"])
    inputs = x - params["b_dec"].detach().unsqueeze(1)
    encoded = _encoded(inputs, states, bias)
    own = [sae.pattern({}, each.all) for sae, each in zip(saes, encoded, strict=True)]
    values = torch.cat([pattern.values_of(each.all) for pattern, each in zip(own, encoded, strict=True)])

    pattern = Pattern.diagonal(own)
    W_enc, W_dec = params["W_enc"].mT.reshape(-1, d_in).T, params["W_dec"].view(-1, d_in)
    pre_acts = autograd.encode_at(pattern, values, inputs.view(-1, d_in), W_enc, bias.view(-1))
    acts = saes[0].activate_at({}, pre_acts, pattern.columns)
    x_hats = autograd.decode(pattern, acts, W_dec).view(num_runs, -1, d_in) + params["b_dec"].unsqueeze(1)

    sums = autograd.column_sums(pattern, acts.detach()).view(num_runs, d_sae)
    sizes = [each.num_entries for each in own]
    parts = zip(own, torch.split(pre_acts, sizes), torch.split(acts, sizes), encoded, x_hats, sums, strict=True)
    return [
        Forward(Entries(at, pre, act, act, constant, None), (x_hat,), act.detach(), total, {}, {})
        for at, pre, act, constant, x_hat, total in parts
    ]


def _encoded(inputs: Tensor, states: Sequence[TrainState], bias: Tensor) -> list[PreActs]:
    """Encodes inputs (num_runs, batch, d_in), a product for each run, since its bits may depend on its shape."""
    encoded = []
    for x, state, own in zip(inputs, states, bias.unbind(), strict=True):  # a penalty's gradient goes through `own`
        W_enc = state.params["W_enc"]
        with torch.no_grad():
            encoded.append(PreActs(x, W_enc, own, None, product(x, W_enc, own)))
    return encoded


def why_no_block(recipe: Recipe) -> str | None:
    """Returns why a run's steps are no blocks, each with the bits of its step alone; None if they are."""
    config, sae = recipe.config, recipe.config.sae
    num_products = config.batch_size * recipe.d_in * sae.d_sae
    reasons = {
        "does not demand sparse steps": config.sparse_steps != "always",
        f"chooses the entries of a {sae.name} otherwise": not (sae.in_blocks and sae.holds("in_blocks")),
        "encodes its batch in pieces": config.batch_size > PIECE,
        "screens its encoder": is_screened(sae, config.screening, recipe.device, recipe.dtype, num_products),
        "runs on no CPU, or not in float32": (recipe.device.type, recipe.dtype) != ("cpu", torch.float32),
        "reads and reconstructs different activations": recipe.target is not None or bool(recipe.widths),
        "has frozen parameters": config.freeze is not None,
        "is captured": config.compile != "never",
    }
    return why_not_stackable(recipe) or next((reason for reason, holds in reasons.items() if holds), None)


def block_shape(recipe: Recipe) -> Any:
    """Returns what runs that step as blocks have in common: shapes, and the optimiser but for its learning rate."""
    config = recipe.config
    optimizer = {key: value for key, value in config.optimizer.to_dict().items() if key not in MOVING}
    return "blocks", recipe.d_in, config.sae.d_sae, config.batch_size, recipe.scale, optimizer

"""The loss of one step of a run over ranks, each of which computes a tile of the tokens and latents.

    x_hat = sum over the ranks' latents of acts @ W_dec, + b_dec

Every rank ends with the same loss, that of the whole batch and all latents. A penalty that is a sum over latents is
asked for each rank's own tile. Any other is asked on every rank for the whole step, of which it gathers what it reads,
so it is right whatever it computes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saepipe.train.config import RECONSTRUCTION, TrainConfig
from saepipe.train.parallel.joined_acts import JoinedActs
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.split_params import JoinedWeights
from saepipe.train.parallel.tile import Tile
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead, ask
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.sae.transcoder import split_rows
from saepipe.train.setting import SettingsNow
from saepipe.train.step.loss import Forward, Loss, Moment, Term, ask_all, context, total_errors, transformed, with_skip


def tile_loss(
    config: TrainConfig, params: Params, rows: Tensor, moment: Moment, dtype: torch.dtype, mesh: Mesh
) -> Loss:
    """Computes what `compute_loss` does; `params` are this rank's, `rows` those of the whole batch."""
    tile = Tile(mesh, len(rows), config.sae.d_sae)
    sae = config.sae.part(mesh.latents.part(tile.d_sae))
    assert sae is not None, "the config refuses such an architecture"
    x, target = split_rows(rows, params["W_enc"].shape[0])
    own_x, own_target = mesh.tokens.own(x, 0), mesh.tokens.own(target, 0)
    entered, weights = tile.entering(params), JoinedWeights(params, tile)
    forward = _forward(config, sae, entered, weights, own_x, moment, dtype, tile)
    x_hats = with_skip(forward.x_hats, entered, own_x, dtype)
    errors = mesh.tokens.add(total_errors(own_target, x_hats, config.reconstruction).sum())
    x_hat, part, threshold = x_hats[-1], forward.latent_acts, sae.threshold(params)
    assert isinstance(part, DenseActs)
    joined = JoinedActs(part, entered, tile)
    of_all = None if threshold is None else tile.join_latents(threshold)
    whole = context(x, target, tile.join_tokens(x_hat), joined, weights, of_all, moment)
    own = context(own_x, own_target, x_hat, part, entered, sae.threshold(entered), moment)
    answers = ask_all(config, moment, lambda penalty, state, now: _ask(penalty, whole, own, state, now, mesh))
    return Loss(
        whole,
        terms={RECONSTRUCTION: Term(errors / len(rows), 1.0), **answers.terms},
        statistics_by_label={**forward.statistics, **answers.statistics},
        states={**forward.states, **answers.states},
        encoded_sum=forward.encoded_sum,
        buffers=sae.observe_part(entered, forward.encoded, tile),
    )


def _forward(
    config: TrainConfig,
    sae: Architecture,
    entered: Params,
    weights: Mapping[str, Tensor],
    x: Tensor,
    moment: Moment,
    dtype: torch.dtype,
    tile: Tile,
) -> Forward:
    """Computes this tile's activations, and what all latents make of its tokens; x is (num_tokens, d_in).

    Transforms are applied, on every rank, to the activations of all latents at all tokens.
    """
    pre_acts = sae.pre_acts(entered, x, dtype)
    encoded = acts = sae.activate_part(entered, pre_acts, tile)
    states: dict[str, State] = {}
    statistics: dict[str, Mapping[str, Tensor]] = {}
    if config.transforms:
        whole, states, statistics = transformed(
            config, tile.join(encoded), lambda: tile.join(pre_acts), weights["W_dec"], moment
        )
        acts = tile.own(whole)
    acts_sum = acts.sum(0, dtype=x.dtype)
    gate_acts = sae.gate_acts(entered, pre_acts, acts)
    parts = sae.reconstructions(tile.decoding(entered), pre_acts, acts)
    x_hats = tile.mesh.latents.add(torch.stack(parts)).unbind()
    return Forward(
        DenseActs(pre_acts=pre_acts, acts=acts, acts_sum=acts_sum, gate_acts=gate_acts),
        x_hats,
        encoded.detach(),
        tile.join_sums(encoded.detach().sum(0, dtype=x.dtype)),
        states,
        statistics,
    )


def _ask(
    penalty: Penalty, whole: StepContext, own: StepContext, state: State, now: SettingsNow, mesh: Mesh
) -> Penalised:
    """Asks a penalty; the statistics of one that is a sum are those of the whole step, computed if they are read."""
    if not penalty.sums_over_latents():
        return ask(penalty, whole, state, now)
    value = mesh.everyone.add(ask(penalty, own, state, now).value * (len(own.x) / len(whole.x)))
    if not penalty.statistics:
        return Penalised(value, {}, state)
    return Penalised(value, WhenRead(lambda: ask(penalty, whole, state, now).statistics), state)

"""The encoder of a sparse step: one dense product, then only the entries that a gradient can reach.

On a CPU the product is computed for some tokens at a time, so all pre-activations of a batch are never in memory at
once. Those that are not entries are forgotten, unless a penalty declares that it reads them. On a processor that
multiplies bfloat16 fast, a screen replaces the product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern, true_positions
from saepipe.train.sae.base import Architecture, Params, center, product
from saepipe.train.sae.entries import Entries
from saepipe.train.sae.pre_acts import PreActs
from saepipe.train.sae.room import Room, reached
from saepipe.train.sae.screen import Screen
from saepipe.train.sae.screening import Screening, free_to_read, screens

PIECE = 512
"""Tokens encoded at a time on a CPU; with fewer the product becomes slower. On CUDA all are."""

LEAST_SCREENED = 2**26
"""Multiplications of an encoder's product below which `auto` leaves it unscreened: the operations cost more."""

SAMPLED = 32
"""Tokens that are encoded first, for what an architecture expects of the others."""


def encode(
    sae: Architecture,
    params: Params,
    x: Tensor,
    dtype: torch.dtype,
    keep: Tensor | None = None,
    screening: Screening = "never",
    scale: float | Tensor = 1.0,
    *,
    transformed: bool = False,
    room: Room | None = None,
) -> Entries:
    """Encodes x (batch, d_in) by an architecture that has sparse steps.

    Args:
        sae: architecture.
        params: its parameters.
        x: activations (batch, d_in).
        dtype: dtype of the products.
        keep: indices (num_kept,) of the latents whose pre-activations are kept at every token; None: all.
        screening: whether a product of rounded factors first rules out what cannot be an entry.
        scale: of x, see `Screen.of`.
        transformed: whether a transform follows, which estimated slopes pass through. Then inactive latents that have
            one are entries, too, and each entry carries its own.
        room: for the entries, of an architecture that is `chosen_by_mask`; None: as many as there are.
    """
    inputs, bias = sae.encoder_input(params, x, dtype)
    carried = transformed and sae.estimates_slopes
    with torch.no_grad():
        at_once = carried or room is not None
        screen = None if at_once or keep is None else _screen(sae, params, inputs, bias, scale, screening)
        found = None if at_once else _by_pieces(sae, params, inputs, bias, keep, screen)
        found = found or _at_once(sae, params, inputs, bias, room, carried=carried)
    pattern = found.pattern
    pre_acts = pattern.without_padding(autograd.encode_at(pattern, found.values, inputs, params["W_enc"], bias))
    acts = sae.activate_at(params, pre_acts, pattern.columns)
    estimate = None if found.near is None else sae.estimate(params, found.near, bias.dtype if carried else dtype)
    if found.active is not None and estimate is not None:
        acts, estimate = acts * found.active + estimate.at(pattern).to(dtype), None
    elif room and estimate is not None:
        estimate = replace(estimate, padded_to=room.num_near)
    acts = pattern.without_padding(acts)
    gates = sae.gate_acts(params, pre_acts, acts)
    return Entries(pattern, pre_acts, acts, gates, found.pre_acts, estimate)


def _screen(
    sae: Architecture, params: Params, inputs: Tensor, bias: Tensor, scale: float | Tensor, screening: Screening
) -> Screen | None:
    work = len(inputs) * params["W_enc"].numel()
    if not is_screened(sae, screening, inputs.device, inputs.dtype, work):
        return None
    return Screen.of(params["W_enc"], bias, center(params), scale)


@dataclass(frozen=True)
class _Found:
    """The entries of a batch."""

    pattern: Pattern
    values: Tensor  # (num_entries,) pre-activations
    pre_acts: PreActs
    near: Tensor | None  # (batch, d_sae) bool, see `Architecture.near`
    active: Tensor | None = None  # (num_entries,) bool; None: all


def _at_once(
    sae: Architecture, params: Params, inputs: Tensor, bias: Tensor, room: Room | None, *, carried: bool
) -> _Found:
    """Finds the entries among all pre-activations of the batch; with `carried`, also where slopes are estimated."""
    pre_acts = room.pre_acts if room else product(inputs, params["W_enc"], bias)
    if not (room or carried):
        pattern = sae.pattern(params, pre_acts)
    else:
        mask = reached(sae, params, pre_acts, transformed=carried)
        pattern = Pattern.padded_to(room.num_entries, mask) if room else Pattern.of_mask(mask)
    active = pattern.values_of(sae.mask(params, pre_acts)) if carried else None
    kept = PreActs(inputs, params["W_enc"], bias, None, pre_acts)
    return _Found(pattern, pattern.values_of(pre_acts), kept, sae.near(params, pre_acts), active)


def _by_pieces(
    sae: Architecture, params: Params, inputs: Tensor, bias: Tensor, keep: Tensor | None, screen: Screen | None
) -> _Found | None:
    """Finds the entries among the pre-activations of `PIECE` tokens at a time; None where that is impossible."""
    if keep is None or not (sae.in_pieces and sae.holds("in_pieces")):
        return None
    piece = PIECE if free_to_read(inputs.device) else max(1, len(inputs))
    if screen is None and len(inputs) <= piece:
        return None
    params = _expecting(sae, params, inputs, bias)
    patterns, values, kept, near = [], [], [], []
    for tokens in torch.split(inputs, piece):
        screened = None if screen is None else screen.entries(sae, params, tokens)
        if screened is None and len(inputs) <= piece:
            return None
        if screened is None:
            screen = None  # the other tokens of the batch will have as many candidates
            pre_acts = product(tokens, params["W_enc"], bias)
            pattern = sae.candidates(params, pre_acts)
            if pattern is None:
                return None
            values.append(pattern.values_of(pre_acts))
            kept.append(pre_acts.index_select(1, keep))
            near.append(sae.near(params, pre_acts))
        else:
            chosen = definer(sae, "among")(sae, params, *screened)
            chosen = true_positions(chosen) if chosen.dtype == torch.bool else chosen
            pattern = screened[0].only(chosen)
            values.append(screened[1].index_select(0, chosen))
            kept.append(product(tokens, params["W_enc"].index_select(1, keep), bias[keep]))
            near.append(definer(sae, "near_among")(sae, params, *screened))
        patterns.append(pattern)
    found = sae.chosen(Pattern.stacked(patterns), torch.cat(values))
    if found is None:
        return None
    return _Found(*found, PreActs(inputs, params["W_enc"], bias, keep, torch.cat(kept)), _joined(near))


def _expecting(sae: Architecture, params: Params, inputs: Tensor, bias: Tensor) -> Params:
    """Returns params with which the architecture expects what is active in this batch, as far as some tokens tell."""
    if type(sae).expecting is Architecture.expecting:
        return params
    some = inputs[:: max(1, len(inputs) // SAMPLED)]
    return sae.expecting(params, product(some, params["W_enc"], bias))


def is_screened(sae: Architecture, screening: Screening, device: torch.device, dtype: torch.dtype, work: int) -> bool:
    """Returns whether a step screens its encoder's product, of `work` multiplications; `auto` if it is large enough."""
    large = screening == "always" or work >= LEAST_SCREENED
    return large and sae.holds("floor") and screens(screening, device, dtype)


def definer(sae: Architecture, name: str) -> Any:
    """Returns a method of the architecture; the general one if a class derived from its definer chooses otherwise."""
    return getattr(type(sae) if sae.holds(name) else Architecture, name)


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    masks = [part for part in parts if part is not None]
    return torch.cat(masks) if masks else None

"""Tokens that a latent makes more and less likely: its decoder row through the final norm and the unembedding.

As in the logit lens (nostalgebraist, 2020) the direction is taken alone: only the norm's weights are applied (and its
centring, if it centres), not the division by the norm of the whole residual stream, which is not known here. So values
are comparable within one latent, and are not probabilities. A final soft-capping (Gemma-2) is monotone and left out,
as is a bias.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from saepipe.data.errors import MachineError
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.sites import layer_of, site_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NORMS = ("norm", "final_layer_norm", "ln_f", "decoder.norm", "decoder.final_layer_norm", "language_model.norm")


@torch.no_grad()
def logits(model: PreTrainedModel, W_dec: Tensor, num: int) -> dict[str, np.ndarray]:
    """Returns ids and values (d_sae, num) of the tokens with the largest logits, largest first, and of the lowest.

    Raises:
        MachineError: if the model's final norm or unembedding is not in a known place.
    """
    unembedding = _unembedding(model)
    num = min(num, len(unembedding))
    parts: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    for rows in torch.split(through_norm(model, W_dec), rows_at_a_time(len(unembedding))):
        values = rows @ unembedding.T
        for sign, largest in (("positive", True), ("negative", False)):
            best = values.topk(num, dim=1, largest=largest)
            parts[f"{sign}_ids"].append(best.indices.int())
            parts[f"{sign}_values"].append(best.values)
    return {name: torch.cat(blocks).cpu().numpy() for name, blocks in parts.items()}


def added_to_the_stream(model: PreTrainedModel, hook: HookPoint, rows: Tensor) -> Tensor:
    """Returns what directions at a hook (num, d_in) add to the residual stream, (num, hidden_size).

    Raises:
        MachineError: if no matrix says it: MLP, norm or gate lie in between.
    """
    if hook.kind == "hook_mlp_in":
        raise MachineError(f"{hook} reaches the residual stream only through the MLP")
    if hook.kind != "attn.hook_z":
        return rows
    attention, projection = site_of(model, HookPoint(hook.layer, "hook_attn_out")), site_of(model, hook).module
    if not projection.startswith(attention.module):
        raise MachineError(f"{hook} reaches the residual stream only through {attention.module}")
    module: Any = layer_of(model, hook).get_submodule(projection)
    # transformers' Conv1D, of GPT-2, holds its weight as (in, out).
    weight: Tensor = module.weight.T if hasattr(module, "in_features") else module.weight
    return attention.factor * rows.to(weight.device, torch.float32) @ weight.float()


NAMES = ("positive_ids", "positive_values", "negative_ids", "negative_values")


def through_norm(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """Applies the final norm to directions, without its division by length, (num, d_in) -> (num, d_in) float32."""
    norm = deepcopy(_final_norm(model)).float()
    rows = rows.to(model.device, torch.float32)
    if isinstance(norm, nn.LayerNorm):
        return (rows - rows.mean(dim=1, keepdim=True)) * norm.weight
    # An RMS norm turns a vector of equal entries into its weights, whether it stores them as w or as w - 1 (Gemma).
    weight: Tensor = norm(torch.full_like(rows[:1], 1e3))
    return rows * weight


def _final_norm(model: PreTrainedModel) -> nn.Module:
    for path in _NORMS:
        try:
            return model.base_model.get_submodule(path)
        except AttributeError:
            continue
    raise MachineError(f"{type(model).__name__} has a final norm in none of these places: {', '.join(_NORMS)}")


def _unembedding(model: PreTrainedModel) -> Tensor:
    """(vocab_size, d_in) float32"""
    untyped: Any = model
    head = untyped.get_output_embeddings()
    if head is None:
        raise MachineError(f"{type(model).__name__} has no unembedding")
    weight: Tensor = head.weight
    return weight.detach().float()

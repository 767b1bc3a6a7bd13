"""The interchange intervention step by step: a plain module hook on the whole model, all latents decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from saepipe.evaluate.metrics.ravel.pair_inputs import PairInputs
from saepipe.evaluate.metrics.ravel.teacher_forcing import UNLABELLED


@contextmanager
def hooked(model: nn.Module, sae: nn.Module, position: int, x_source: Tensor, mask: Tensor) -> Iterator[None]:
    """Writes decode((1 - mask) acts + mask source acts) + error at one position, as a forward hook of layer 0."""

    def intervene(_module, _args, output):
        x = output if isinstance(output, torch.Tensor) else output[0]
        base, source = sae.encode(x[0, position]), sae.encode(x_source)
        error = x[0, position] - sae.decode(base)
        changed = x.clone()
        changed[0, position] = sae.decode((1 - mask) * base + mask * source) + error
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    handle = model.model.layers[0].register_forward_hook(intervene)
    try:
        yield
    finally:
        handle.remove()


def target_logits(
    model: nn.Module, sae: nn.Module, inputs: PairInputs, row: int, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns logits (num_target_tokens, vocab) of one pair, run alone and whole, and its target."""
    batch = inputs.batch(torch.tensor([row]))
    with hooked(model, sae, int(batch.positions[0]), batch.x_source[0], mask):
        logits = model(batch.ids).logits[0]
    labelled = batch.labels[0] != UNLABELLED
    return logits[labelled], batch.labels[0][labelled]

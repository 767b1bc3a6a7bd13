"""Interchange intervention: at the entity's last token some latents get their values for another entity."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.sae.subject import Subject


@torch.no_grad()
def changes_of_acts(subject: Subject, x_base: Tensor, x_source: Tensor) -> Tensor:
    """Returns the source's acts less the base's, (batch, d_sae) float32 on the SAE's device.

    Args:
        subject: the SAE.
        x_base: (batch, d_in) activations at the entity of each base.
        x_source: (batch, d_in) activations at the entity of each source.

    Raises:
        CorruptDataError: if an activation of the SAE is NaN or Inf.
    """
    changes = subject.encode(x_source) - subject.encode(x_base)
    if not changes.isfinite().all():
        raise CorruptDataError(f"the SAE of {subject.name} has activations that are NaN or Inf")
    return changes


def interchange(x: Tensor, positions: Tensor, changes: Tensor, W_dec: Tensor) -> Tensor:
    """Returns x with `changes @ W_dec` added at one position of each text, (batch, seq, d_in) float32.

    With acts' those of the base but for the selected latents, which are the source's, decoding is affine, so

        decode(acts') + (x - decode(acts)) = x + (acts' - acts) W_dec

    and the reconstruction error of the base is kept.

    Args:
        x: (batch, seq, d_in) activations at the hook.
        positions: (batch,) position to write at.
        changes: (batch, d_sae) changes of acts, 0 for latents that are left alone.
        W_dec: (d_sae, d_in).
    """
    written = torch.zeros(x.shape, device=W_dec.device)
    written[torch.arange(len(x)), positions] = 1.0
    return x.to(W_dec.device, torch.float32) + written * (changes @ W_dec)[:, None]

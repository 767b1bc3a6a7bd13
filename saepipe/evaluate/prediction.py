"""How well next tokens are predicted: cross-entropy and divergence from the clean model, position by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_CHUNK = {"cpu": 2**18, "cuda": 2**27}
"""Logits taken to float32 at a time: what a CPU's cache holds, and 512 MiB."""


@dataclass(frozen=True)
class Prediction:
    """One pass of the model, in nats. The last position of a window has no target: its `ce` means nothing."""

    ce: torch.Tensor
    """(batch, seq) float32: -log q(next token)"""
    kl: torch.Tensor
    """(batch, seq) float32: KL(p || q) = sum over the vocabulary of p (log p - log q), p the clean model"""


def predict(logits: torch.Tensor, ids: torch.Tensor, clean: torch.Tensor) -> Prediction:
    """Compares a pass with the tokens that came and with the clean pass; the log-softmax is in float32.

    Args:
        logits: (batch, seq, vocab) of the pass that is judged.
        ids: (batch, seq) token ids.
        clean: (batch, seq, vocab) logits of the clean pass.
    """
    targets = ids.roll(-1, dims=1).flatten().to(logits.device)
    num_rows = max(1, _CHUNK.get(logits.device.type, 2**27) // logits.shape[-1])
    parts = zip(
        torch.split(logits.flatten(0, 1), num_rows),
        torch.split(clean.flatten(0, 1), num_rows),
        torch.split(targets, num_rows),
        strict=True,
    )
    ce, kl = zip(*(_predict_rows(*part) for part in parts), strict=True)
    return Prediction(torch.cat(ce).view(ids.shape), torch.cat(kl).view(ids.shape))


def _predict_rows(
    logits: torch.Tensor, clean: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    log_q = logits.float().log_softmax(dim=-1)
    log_p = clean.float().log_softmax(dim=-1)
    ce = -log_q.gather(1, targets[:, None]).squeeze(1)
    return ce, (log_p.exp() * (log_p - log_q)).sum(dim=-1)

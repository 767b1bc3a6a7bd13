"""Quality of next-token predictions: cross-entropy, and divergence from the clean model, per position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

_CHUNK = {"cpu": 2**18, "cuda": 2**27}
"""Logits converted to float32 at a time: as many as a CPU's cache holds, and 512 MiB."""

_RowLosses = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(logits (num_rows, vocab), clean (num_rows, vocab), targets (num_rows,)) -> ce, kl (num_rows,)"""


@dataclass(frozen=True)
class Prediction:
    """Losses of a forward pass, in nats. The last position of a window has no target: ignore its `ce`."""

    ce: torch.Tensor
    """(batch, seq) float32: -log q(next token)"""
    kl: torch.Tensor
    """(batch, seq) float32: KL(p || q) = sum over the vocabulary of p (log p - log q), p the clean model"""

    @classmethod
    def cat(cls, parts: Sequence[Prediction]) -> Prediction:
        return cls(torch.cat([part.ce for part in parts]), torch.cat([part.kl for part in parts]))

    def to(self, device: torch.device) -> Prediction:
        return Prediction(self.ce.to(device), self.kl.to(device))

    def __getitem__(self, contexts: slice) -> Prediction:
        """Returns the losses on some of the contexts."""
        return Prediction(self.ce[contexts], self.kl[contexts])


def predict(logits: torch.Tensor, ids: torch.Tensor, clean: torch.Tensor) -> Prediction:
    """Compares a forward pass with the actual next tokens and with the clean pass; log-softmax is in float32.

    Args:
        logits: (batch, seq, vocab) of the pass to judge.
        ids: (batch, seq) token ids.
        clean: (batch, seq, vocab) logits of the clean pass.
    """
    return _by_chunks(_in_float32, logits, ids, clean)


def predict_as_saebench(logits: torch.Tensor, ids: torch.Tensor, clean: torch.Tensor) -> Prediction:
    """Does what `predict` does, as SAEBench 0.6.0: in the model's dtype, NaN where a probability underflows to 0."""
    return _by_chunks(_in_model_dtype, logits, ids, clean)


def _by_chunks(losses: _RowLosses, logits: torch.Tensor, ids: torch.Tensor, clean: torch.Tensor) -> Prediction:
    targets = ids.roll(-1, dims=1).flatten().to(logits.device)
    num_rows = max(1, _CHUNK.get(logits.device.type, 2**27) // logits.shape[-1])
    parts = zip(
        torch.split(logits.flatten(0, 1), num_rows),
        torch.split(clean.flatten(0, 1), num_rows),
        torch.split(targets, num_rows),
        strict=True,
    )
    ce, kl = zip(*(losses(*part) for part in parts), strict=True)
    return Prediction(torch.cat(ce).view(ids.shape), torch.cat(kl).view(ids.shape))


def _in_float32(logits: torch.Tensor, clean: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_q = logits.float().log_softmax(dim=-1)
    log_p = clean.float().log_softmax(dim=-1)
    return _cross_entropy(log_q, targets), (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _in_model_dtype(
    logits: torch.Tensor, clean: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    p, q = clean.softmax(dim=-1), logits.softmax(dim=-1)
    kl = (p * (p.log() - q.log())).sum(dim=-1)
    return _cross_entropy(logits.log_softmax(dim=-1), targets).float(), kl.float()


def _cross_entropy(log_q: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns -log q of the targets, (num_rows,)."""
    return -log_q.gather(1, targets[:, None]).squeeze(1)

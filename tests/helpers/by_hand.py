"""Held-out activations and SAEs made by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class StoredHeldout:
    """Stand-in for `Cache.heldout`, in memory."""

    contexts: np.ndarray
    documents: np.ndarray
    keep: np.ndarray
    x: torch.Tensor

    def activations(self, hook: str, start: int, stop: int) -> torch.Tensor:
        return self.x[start:stop]


class LinearSAE(nn.Module):
    """acts = relu(x W_enc + b_enc) (or without the relu), x_hat = acts W_dec + b_dec."""

    def __init__(self, W_enc: Any, W_dec: Any, b_enc: Any = 0.0, b_dec: Any = 0.0, *, relu: bool = True) -> None:
        super().__init__()
        self.W_enc, self.W_dec = torch.as_tensor(W_enc), torch.as_tensor(W_dec)
        self.b_enc = torch.as_tensor(b_enc).expand(self.W_enc.shape[1])
        self.b_dec = torch.as_tensor(b_dec).expand(self.W_enc.shape[0])
        self.relu = relu

    @property
    def d_sae(self) -> int:
        return self.W_enc.shape[1]

    def encode(self, x: torch.Tensor, latents: torch.Tensor | None = None) -> torch.Tensor:
        pre_acts = x @ self.W_enc + self.b_enc
        acts = pre_acts.relu() if self.relu else pre_acts
        return acts if latents is None else acts[..., latents]

    def decode(self, acts: torch.Tensor) -> torch.Tensor:
        return acts @ self.W_dec + self.b_dec

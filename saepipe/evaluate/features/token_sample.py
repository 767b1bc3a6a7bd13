"""Random tokens of the pass with all of their active latents, as many as a limit allows.

If there are too many, random tokens are left out, half of them at a time; which ones depends on the tokens and the SAE
alone. So of the samples of two SAEs, which have the same seed, one contains the other's tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

from saepipe.evaluate.features.active import ActiveEntries
from saepipe.train.kernels.pattern import true_positions


@dataclass(frozen=True)
class SampledTokens:
    """Some tokens with all of their active latents."""

    uniform: np.ndarray  # (num_tokens,) float64
    flat_index: np.ndarray  # (num_tokens,) int64: context * context_size + position, ascending
    num: np.ndarray  # (num_tokens,) int64: active latents
    latents: np.ndarray  # (num.sum(),) int32: those latents, token by token
    acts: np.ndarray  # (num.sum(),) float32

    def below(self, share: float) -> SampledTokens:
        chosen = self.uniform < share
        entries = np.repeat(chosen, self.num)
        of_tokens = (self.uniform[chosen], self.flat_index[chosen], self.num[chosen])
        return SampledTokens(*of_tokens, self.latents[entries], self.acts[entries])


class TokenSample:
    """Keeps tokens while the sum of their costs is within `limit`; a cost depends on the number of active latents."""

    def __init__(self, limit: int, cost: Callable[[np.ndarray], np.ndarray]) -> None:
        self.share = 1.0
        self._limit, self._cost = limit, cost
        self._parts: list[SampledTokens] = []
        self._total = 0

    def add(self, entries: ActiveEntries) -> None:
        tokens = entries.tokens
        num = torch.bincount(entries.row, minlength=len(tokens.x))
        chosen = tokens.uniform < self.share
        of_chosen = true_positions(chosen.index_select(0, entries.row))
        of_tokens = (tokens.uniform[chosen], tokens.flat_index[chosen], num[chosen])
        of_entries = (entries.latent.index_select(0, of_chosen).int(), entries.act.index_select(0, of_chosen))
        tensors = (*of_tokens, *of_entries)
        self._parts.append(SampledTokens(*(tensor.cpu().numpy() for tensor in tensors)))
        self._total += self._sum(self._parts[-1])
        while self._total > self._limit:
            self.share /= 2
            self._parts = [part.below(self.share) for part in self._parts]
            self._total = sum(map(self._sum, self._parts))

    def _sum(self, part: SampledTokens) -> int:
        return int(self._cost(part.num).sum())

    @property
    def num_tokens(self) -> int:
        return sum(len(part.num) for part in self._parts)

    def tokens(self) -> SampledTokens:
        names = [field.name for field in fields(SampledTokens)]
        return SampledTokens(*(np.concatenate([getattr(part, name) for part in self._parts]) for name in names))

"""Latents that are active on random tokens, as read from a store: by them, latents of several runs are matched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.features.token_numbers import uniform


@dataclass(frozen=True)
class Firings:
    """Some tokens, all latents that are active on them, and the activations as shares of each latent's largest."""

    token: np.ndarray  # (num_tokens,) int64, ascending: context * context_size + position
    start: np.ndarray  # (num_tokens + 1,) int64: entries of token t are start[t]:start[t + 1]
    latent: np.ndarray  # (num_entries,) int32
    act: np.ndarray  # (num_entries,) float32

    @classmethod
    def read(cls, arrays: Mapping[str, np.ndarray]) -> Firings:
        start = np.concatenate([[0], np.cumsum(arrays["firing_count"], dtype=np.int64)])
        if start[-1] != len(arrays["firing_latent"]):
            raise CorruptDataError("the store's firings are not as many as its tokens say")
        act = arrays["firing_act"].astype(np.float32)
        return cls(np.array(arrays["firing_token"]), start, np.array(arrays["firing_latent"]), act)

    def below(self, share: float, seed: int) -> Firings:
        """Returns the firings on the tokens whose random number is below `share`."""
        chosen = uniform(self.token, seed) < share
        if chosen.all():
            return self
        count = np.diff(self.start)
        entries = np.repeat(chosen, count)
        start = np.concatenate([[0], count[chosen].cumsum()])
        return Firings(self.token[chosen], start, self.latent[entries], self.act[entries])

"""Activations of all latents on all tokens of a batch, of which each rank has computed a tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from saepipe.train.parallel.tile import Tile
from saepipe.train.sae.base import Params
from saepipe.train.sae.dense_acts import DenseActs


@dataclass(frozen=True)
class JoinedActs:
    """The numbers of `DenseActs` on every rank, up to rounding. Sums are added up; arrays are gathered when read."""

    part: DenseActs
    params: Params  # of this tile, as it uses them
    tile: Tile

    @cached_property
    def pre_acts(self) -> Tensor:
        return self.tile.join(self.part.pre_acts)

    @cached_property
    def acts(self) -> Tensor:
        return self.tile.join(self.part.acts)

    @cached_property
    def acts_sum(self) -> Tensor:
        return self.tile.join_sums(self.part.acts_sum)

    @cached_property
    def gate_acts(self) -> Tensor:
        same = self.part.gate_acts is self.part.acts
        return self.acts if same else self.tile.join(self.part.gate_acts)

    @property
    def gate_values(self) -> Tensor:
        return self.gate_acts

    @property
    def gate_sum(self) -> Tensor:
        return self._added(self.part.gate_sum)

    @property
    def num_active(self) -> Tensor:
        return self._added(self.part.num_active)

    def over_batch(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return self.tile.join_sums(self.part.over_batch(function))

    def over_gates(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return self._added(self.part.over_gates(function))

    def num_near(self, threshold: Tensor, bandwidth: float) -> Tensor:
        return self.tile.join_sums(self.part.num_near(self._own(threshold), bandwidth))

    def num_above(self, threshold: Tensor | float) -> Tensor:
        if isinstance(threshold, Tensor) and threshold.dim() > 0:
            threshold = self._own(threshold)
        return self._added(self.part.num_above(threshold))

    def first_acts(self, num_tokens: int) -> Tensor:
        tokens = self.tile.mesh.tokens
        counts = [min(max(num_tokens - part.start, 0), len(part)) for part in tokens.parts(self.tile.batch)]
        own = self.part.first_acts(counts[tokens.rank])
        return tokens.joined(self.tile.join_latents(own, 1), 0, counts)

    def decode_largest(self, num_latents: int, among: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Decodes this tile's latents by its own rows of W_dec, and adds up what the tiles decode."""
        pre_acts = self.part.pre_acts
        values, indices = self.tile.largest_per_token(
            pre_acts.masked_fill(~self._own(among), float("-inf")), num_latents
        )
        acts = pre_acts.new_zeros(pre_acts.shape).scatter(1, indices, values.relu())
        W_dec = self.params["W_dec"]
        decoded = (acts @ W_dec.to(acts.dtype)).to(W_dec.dtype)
        return self.tile.join_tokens(self.tile.mesh.latents.add(decoded))

    def _own(self, of_all: Tensor) -> Tensor:
        return self.tile.mesh.latents.own(of_all, 0)

    def _added(self, value: Tensor) -> Tensor:
        return self.tile.mesh.everyone.add(value)

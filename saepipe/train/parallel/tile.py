"""This rank's tile of a batch: some of its tokens by some of the latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from saepipe.train.parallel.axis import Axis
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.sae.base import Params

EVERYWHERE = "b_dec"
"""The parameter that every rank of the grid has, and uses for its own latents and tokens."""


@dataclass(frozen=True)
class Tile:
    """The tile of one rank, and what it asks of the others; the `Rivals` of an architecture."""

    mesh: Mesh
    batch: int
    d_sae: int

    @property
    def num_tokens(self) -> int:
        """Tokens of this tile."""
        return len(self.mesh.tokens.part(self.batch))

    def entering(self, params: Params) -> Params:
        """Returns the parameters as this tile uses them, whose gradients are summed over those who share them."""
        return {
            name: (self.mesh.everyone if name == EVERYWHERE else self.mesh.tokens).enter(value)
            for name, value in params.items()
        }

    def decoding(self, entered: Params) -> Params:
        """Returns the parameters with which this tile decodes: one of the parts that are added up has b_dec."""
        return {**entered, "b_dec": entered["b_dec"] * float(self.mesh.latents.rank == 0)}

    def join(self, part: Tensor) -> Tensor:
        """Returns the whole (batch, d_sae) of which this tile has a part."""
        return self.join_tokens(self.join_latents(part, 1))

    def join_tokens(self, part: Tensor) -> Tensor:
        """Returns all tokens' rows, (batch, ...)."""
        return self.mesh.tokens.join(part, 0, self.batch)

    def join_latents(self, part: Tensor, dim: int = 0) -> Tensor:
        """Returns what all latents have, along `dim`."""
        return self.mesh.latents.join(part, dim, self.d_sae)

    def join_sums(self, sums: Tensor) -> Tensor:
        """Returns all latents' sums over the batch (d_sae,), from those of this tile's latents over its tokens."""
        return self.join_latents(self.mesh.tokens.add(sums))

    def own(self, whole: Tensor) -> Tensor:
        """Returns this tile of an array (batch, d_sae) that all ranks hold."""
        return self.mesh.latents.own(self.mesh.tokens.own(whole, 0), 1)

    def largest_per_token(self, values: Tensor, num: int) -> tuple[Tensor, Tensor]:
        latents = self.mesh.latents
        counts = [min(num, len(part)) for part in latents.parts(self.d_sae)]
        own, indices = values.topk(counts[latents.rank], dim=1, sorted=False)
        return _kept(own, num, counts, latents), indices

    def largest(self, values: Tensor, num: int) -> tuple[Tensor, Tensor]:
        mesh, widths = self.mesh, [len(part) for part in self.mesh.latents.parts(self.d_sae)]
        counts = [min(num, len(part) * width) for part in mesh.tokens.parts(self.batch) for width in widths]
        own, indices = values.topk(counts[mesh.everyone.rank], sorted=False)
        return _kept(own.unsqueeze(0), num, counts, mesh.everyone).squeeze(0), indices

    def smallest(self, value: Tensor) -> Tensor:
        return self.mesh.everyone.summed(value, dist.ReduceOp.MIN)


def _kept(own: Tensor, num: int, counts: list[int], axis: Axis) -> Tensor:
    """Returns candidates (rows, num_own), with 0 for those that are not among the `num` largest of all ranks'."""
    of_all = axis.joined(own, 1, counts)
    places = of_all.topk(min(num, sum(counts)), dim=1, sorted=False).indices
    kept = torch.zeros_like(of_all, dtype=torch.bool).scatter(1, places, True)
    return own.masked_fill(~torch.split(kept, counts, 1)[axis.rank], 0.0)

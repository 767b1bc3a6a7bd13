"""The world of SynthSAEBench-16k (Chanin & Garriga-Alonso 2026, arXiv 2602.14687), made by its published recipe."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.config.base import Config, Count
from saepipe.data.synthetic.copula_world import CopulaWorld
from saepipe.data.synthetic.directions import orthogonalized

Positive = Annotated[Count, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
MAX_SHARED = 0.99
"""Largest share of a score's variance that comes from the shared factors."""


class SynthBench(Config):
    """Trees of exclusive children as strong as their parents, Zipfian rates, a low-rank copula; L0 about 34.

    Settings and values are those of SynthSAEBench-16k, version 2 (SAELens' `docs/synth_sae_bench.md`). A seed means the
    same here as for SAELens on a CPU; the published file was made on a GPU, whose random numbers differ, with seed 42:
    it is another world of the same distribution, which `read_saelens_world` reads.
    """

    num_features: Positive = 16_384
    d_in: Positive = 768
    num_roots: Positive = 128
    branching: Annotated[Count, Field(ge=2)] = 4
    depth: Annotated[Count, Field(ge=0)] = 3
    zipf: float = Field(0.5, gt=0)
    rates: tuple[Rate, Rate] = Field((0.4, 5e-4), description="for the most and the least frequent feature")
    rank: Annotated[Count, Field(ge=0)] = 25
    correlation_scale: float = Field(0.1, ge=0, description="standard deviation of a loading")
    mean_magnitudes: tuple[float, float] = Field((5.0, 4.0), description="for the most and the least frequent feature")
    std_magnitudes: tuple[float, float] = Field((0.5, 0.5), description="folded normal: mean and standard deviation")
    bias_norm: float = Field(0.5, ge=0)
    orthogonal_steps: Annotated[Count, Field(ge=0)] = 100
    orthogonal_lr: float = Field(3e-4, gt=0)

    @model_validator(mode="after")
    def _check_num_roots(self) -> Self:
        if self.num_features < max(2, self.num_roots):
            raise ValueError(f"{self.num_features} features cannot include {self.num_roots} roots")
        return self

    def world(self, seed: int = 42) -> CopulaWorld:
        """Makes the world number `seed`, on the CPU; its directions take a minute at full size."""
        num, parent = self.num_features, self._parents()
        mean, std = self.std_magnitudes
        directions, bias = self._directions(seed)
        return CopulaWorld(
            directions=directions,
            bias=bias,
            parent=parent,
            group=parent,  # all children of a parent exclude each other, and roots nothing
            scaled=parent >= 0,
            threshold=-torch.special.ndtri(self._rates(parent)).float(),
            loadings=self._loadings(seed),
            mean=torch.linspace(*self.mean_magnitudes, num),
            std=(mean + std * torch.randn(num, generator=torch.Generator().manual_seed(seed + 1))).abs(),
        )

    def _parents(self) -> Tensor:
        """(num_features,): -1 for roots, then their children, level by level, then -1 for features outside any tree."""
        sizes = [self.num_roots * self.branching**depth for depth in range(self.depth + 1)]
        ends = [min(end, self.num_features) for end in accumulate(sizes, initial=0)]
        parent = torch.full((self.num_features,), -1)
        for (begin, middle), (_, end) in pairwise(pairwise(ends)):
            parent[middle:end] = torch.arange(begin, middle).repeat_interleave(self.branching)[: end - middle]
        return parent

    def _rates(self, parent: Tensor) -> Tensor:
        """Probabilities of firing, (num_features,) float64, raised so that about the Zipfian share is left on.

        A feature fires p / p_parent * (1 + the sum of its siblings' p / p_parent) of the time, at most always, as in
        SAELens. The compensation is approximate: features with strong siblings end up on more rarely than p.
        """
        high, low = self.rates
        zipf = torch.arange(1, self.num_features + 1, dtype=torch.float64) ** -self.zipf
        p = low + (high - low) * (zipf - zipf[-1]) / (zipf[0] - zipf[-1])
        child = (parent >= 0).nonzero().squeeze(1)
        above = parent[child]
        siblings = torch.bincount(above, p[child], minlength=len(p))[above] - p[child]
        rates = p.clone()
        rates[child] = p[child] / p[above] * (1 + siblings / p[above])
        return rates.clamp_max(1)

    def _loadings(self, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed + 4)
        loadings = self.correlation_scale * torch.randn(self.num_features, self.rank, generator=rng)
        lengths = torch.linalg.vector_norm(loadings, dim=1, keepdim=True)
        return loadings * (MAX_SHARED**0.5 / lengths.clamp_min(1e-12)).clamp_max(1)

    def _directions(self, seed: int) -> tuple[Tensor, Tensor]:
        """Returns directions (num_features, d_in) and bias (d_in,)."""
        rng = torch.Generator().manual_seed(seed)
        random = normalize(torch.randn(self.num_features, self.d_in, generator=rng), dim=1)
        bias = self.bias_norm * normalize(torch.randn(self.d_in, generator=rng), dim=0)
        return orthogonalized(random, num_steps=self.orthogonal_steps, lr=self.orthogonal_lr), bias

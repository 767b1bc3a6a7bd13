"""A world like SynthSAEBench-16k (Chanin & Garriga-Alonso 2026, arXiv 2602.14687)."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.config.base import Config, Count
from saepipe.data.synthetic.directions import tight_frame
from saepipe.data.synthetic.truth import Truth, key

Positive = Annotated[Count, Field(ge=1)]


class SynthBench(Config):
    """Trees of exclusive children, Zipfian rates, a low-rank copula, children as strong as their parents; L0 about 34.

    Settings and values are the paper's (SAELens 6, `docs/synth_sae_bench.md`), but figures for its file do not carry
    over: rates and exclusion are exact here, because siblings share one draw (there each draws, a random winner stays,
    and approximate compensation leaves frequencies slightly off), and directions are a tight frame, the minimum that
    the paper approaches with 100 small steps on the same loss.
    """

    num_features: Positive = 16_384
    d_in: Positive = 768
    num_roots: Positive = 128
    branching: Positive = 4
    depth: Annotated[Count, Field(ge=0)] = 3
    zipf: float = Field(0.5, gt=0)
    rates: tuple[float, float] = (0.4, 5e-4)
    rank: Annotated[Count, Field(ge=0)] = 25
    correlation_scale: float = Field(0.1, ge=0, description="standard deviation of a loading; |loading| stays <= 0.95")
    mean_magnitudes: tuple[float, float] = Field((5.0, 4.0), description="for the most and the least frequent feature")
    std_magnitudes: tuple[float, float] = Field((0.5, 0.5), description="folded normal: mean and standard deviation")
    bias_norm: float = Field(0.5, ge=0)
    noise: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check_num_roots(self) -> Self:
        if self.num_features < max(2, self.num_roots):
            raise ValueError(f"{self.num_features} features cannot include {self.num_roots} roots")
        return self

    def truth(self, seed: int) -> Truth:
        """Makes the world number `seed`, on the CPU, with 50 MB of directions; sample batches with `draw`."""
        num = self.num_features
        rng = torch.Generator().manual_seed(key(seed))
        parent, group = self._trees()
        mean, std = self.std_magnitudes
        loadings = self.correlation_scale * torch.randn(int(group.max()) + 1, self.rank, generator=rng)
        lengths = torch.linalg.vector_norm(loadings, dim=1, keepdim=True)
        return Truth(
            directions=tight_frame(normalize(torch.randn(num, self.d_in, generator=rng), dim=1)),
            parent=parent,
            group=group,
            rates=self._rates(parent, group),
            mean=torch.linspace(*self.mean_magnitudes, num),
            std=(mean + std * torch.randn(num, generator=rng)).abs(),
            floor=0.0,
            loadings=loadings * (0.95 / lengths).clamp_max(1),
            bias=self.bias_norm * normalize(torch.randn(self.d_in, generator=rng), dim=0),
            noise=self.noise,
            scaled_by_parent=True,
        )

    def _levels(self) -> list[slice]:
        """Index ranges of the levels of the trees: roots, their children, ..."""
        sizes = [self.num_roots * self.branching**depth for depth in range(self.depth + 1)]
        ends = [0, *accumulate(sizes)]
        return [slice(begin, end) for begin, end in pairwise(min(end, self.num_features) for end in ends)]

    def _trees(self) -> tuple[Tensor, Tensor]:
        """parent and group, each (num_features,): level by level, then the features outside any tree."""
        parent = torch.full((self.num_features,), -1)
        for above, level in pairwise(self._levels()):
            parents = torch.arange(above.start, above.stop).repeat_interleave(self.branching)
            parent[level] = parents[: level.stop - level.start]
        starts_group = (parent < 0) | (parent != parent.roll(1))
        return parent, starts_group.cumsum(0) - 1

    def _rates(self, parent: Tensor, group: Tensor) -> Tensor:
        """P(on | parent on), (num_features,) float64: Zipf rate over the parent's, siblings summing to at most 1."""
        high, low = self.rates
        zipf = torch.arange(1, self.num_features + 1, dtype=torch.float64) ** -self.zipf
        frequencies = low + (high - low) * (zipf - zipf[-1]) / (zipf[0] - zipf[-1])
        rates = frequencies.clone()
        for level in self._levels()[1:]:
            rates[level] = frequencies[level] / frequencies[parent[level]]
            rates[level] /= torch.bincount(group[level], rates[level])[group[level]].clamp_min(1)
            frequencies[level] = rates[level] * frequencies[parent[level]]
        return rates

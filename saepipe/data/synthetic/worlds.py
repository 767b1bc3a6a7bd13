"""Small worlds: families of a parent and its exclusive children, sets of exclusive siblings, flat features."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.config.base import Config, Count
from saepipe.data.synthetic.directions import repelled, tilted
from saepipe.data.synthetic.truth import Truth, key

Positive = Annotated[Count, Field(ge=1, le=2**16)]
Whole = Annotated[Count, Field(ge=0, le=2**16)]
Share = Annotated[float, Field(ge=0, le=1)]


class World(Config):
    """Settings of a small world; by default the reference world, 64 features in 40 dimensions with 3.2 on per token.

    Features come in this order: parents, flat features, siblings, then each parent's children.
    """

    d_in: Positive = 40
    max_cosine: float = Field(0.131, gt=0, lt=1, description="largest |cosine| between unrelated features")

    num_parents: Whole = 12
    parent_rates: tuple[Share, Share] = Field((0.24, 0.06), description="for the first and last parent; log-spaced")
    num_children: Whole = Field(3, description="children per parent; they exclude each other")
    child_rate: Share = Field(0.2, description="P(child | parent)")
    num_rare_children: Whole = Field(0, description="rare ones among each parent's children")
    rare_rate: Share = Field(1e-3, description="P(rare child), over all tokens")
    child_cosine: Share = Field(0.0, description="cosine between a child's direction and its parent's")

    num_flat: Whole = 16
    flat_rate: Share = 0.12
    flat_exponent: float = Field(0.6, ge=0, description="the k-th flat feature has rate flat_rate * k^-flat_exponent")
    num_correlated: Whole = Field(0, description="correlated flat features, the first ones, in sets of correlated_size")
    correlated_size: Positive = 4
    correlation: float = Field(0.8, ge=0, lt=1, description="correlation of the copula within such a set")

    num_sibling_sets: Whole = Field(0, description="sets of features that exclude each other and have no parent")
    num_siblings: Positive = Field(4, description="siblings per set")
    sibling_rate: Share = 0.05
    sibling_cosine: Share = Field(0.6, description="cosine between two siblings of a set")

    magnitude: tuple[float, float] = Field((1.0, 0.25), description="mean and standard deviation")
    least_magnitude: float = Field(0.2, ge=0)
    noise: float = Field(0.02, ge=0)

    @model_validator(mode="after")
    def _check_rates(self) -> Self:
        num_common = self.num_children - self.num_rare_children
        parent_rate = min(self.parent_rates)
        if num_common < 0:
            raise ValueError(f"{self.num_rare_children} rare children, but only {self.num_children} children")
        if self.num_parents and self.num_rare_children and not parent_rate:
            raise ValueError("a parent that is never on cannot have rare children")
        rare = self.num_rare_children * self.rare_rate / parent_rate if self.num_rare_children else 0.0
        if (total := num_common * self.child_rate + rare) > 1:
            raise ValueError(f"exclusive children cannot be on in {total:.2f} of their parent's tokens")
        if self.num_siblings * self.sibling_rate > 1:
            raise ValueError(
                f"exclusive siblings cannot be on in {self.num_siblings * self.sibling_rate:.2f} of tokens"
            )
        if self.num_correlated > self.num_flat:
            raise ValueError(f"{self.num_correlated} correlated features, but only {self.num_flat} flat ones")
        return self

    def truth(self, seed: int) -> Truth:
        """Makes the world number `seed`; only its directions depend on the seed.

        Raises:
            ConfigError: if the features do not fit into d_in dimensions.
        """
        parent, group = self._structure()
        num = len(parent)
        mean, std = self.magnitude
        return Truth(
            directions=self._directions(parent, seed),
            parent=parent,
            group=group,
            rates=self._rates(),
            mean=torch.full((num,), mean),
            std=torch.full((num,), std),
            floor=self.least_magnitude,
            loadings=self._loadings(group),
            bias=torch.zeros(self.d_in),
            noise=self.noise,
        )

    @property
    def _num_siblings(self) -> int:
        return self.num_sibling_sets * self.num_siblings

    def _structure(self) -> tuple[Tensor, Tensor]:
        """parent and group, each (num_features,)."""
        roots = self.num_parents + self.num_flat + self._num_siblings
        families = torch.arange(self.num_parents).repeat_interleave(self.num_children)
        sets = torch.arange(self.num_sibling_sets).repeat_interleave(self.num_siblings)
        singles = torch.arange(self.num_parents + self.num_flat)
        parent = torch.cat([torch.full((roots,), -1), families])
        group = torch.cat([singles, len(singles) + sets, len(singles) + self.num_sibling_sets + families])
        return parent, group

    def _rates(self) -> Tensor:
        """P(on | parent on), (num_features,) float64."""
        first, last = self.parent_rates
        steps = torch.linspace(0, 1, self.num_parents, dtype=torch.float64)
        parents = first * (last / first) ** steps if first else torch.zeros_like(steps)
        ranks = torch.arange(1, self.num_flat + 1, dtype=torch.float64)
        flat = self.flat_rate * ranks**-self.flat_exponent
        siblings = torch.full((self._num_siblings,), self.sibling_rate, dtype=torch.float64)
        children = torch.full((self.num_parents, self.num_children), self.child_rate, dtype=torch.float64)
        if self.num_rare_children:
            children[:, -self.num_rare_children :] = self.rare_rate / parents.unsqueeze(1)
        return torch.cat([parents, flat, siblings, children.flatten()])

    def _loadings(self, group: Tensor) -> Tensor:
        """Loadings with one factor per set of correlated features; (num_groups, num_sets)."""
        num_groups = int(group.max()) + 1
        num_sets = -(-self.num_correlated // self.correlated_size)
        loadings = torch.zeros(num_groups, num_sets)
        for index in range(self.num_correlated):  # flat features are groups of their own, after the parents
            loadings[self.num_parents + index, index // self.correlated_size] = self.correlation**0.5
        return loadings

    def _directions(self, parent: Tensor, seed: int) -> Tensor:
        """(num_features, d_in): repelled, then tilted, children towards parents and siblings towards each other."""
        num, sets = len(parent), self.num_sibling_sets
        rng = torch.Generator().manual_seed(key(seed))
        random = normalize(torch.randn(num + sets, self.d_in, generator=rng), dim=1)
        directions = repelled(random, self.max_cosine)
        common, directions = directions[num:], directions[:num].clone()
        begin = self.num_parents + self.num_flat
        siblings = slice(begin, begin + self._num_siblings)
        # Two rows tilted towards the same direction, each to cosine c, have cosine c^2 with each other.
        toward = common.repeat_interleave(self.num_siblings, dim=0)
        directions[siblings] = tilted(directions[siblings], toward, self.sibling_cosine**0.5)
        children = parent >= 0
        directions[children] = tilted(directions[children], directions[parent[children]], self.child_cosine)
        return directions

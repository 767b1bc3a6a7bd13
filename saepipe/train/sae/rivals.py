"""The other parts of a batch's pre-activations, of which an architecture that compares latents asks the largest."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Rivals(Protocol):
    """What the ranks that hold the other latents and tokens of a batch answer; all of them ask the same."""

    @property
    def batch(self) -> int:
        """Number of tokens of the whole batch."""

    def largest_per_token(self, values: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """Returns candidates for the `num` largest values of each token over all latents, and where they are.

        Args:
            values: (num_tokens, num_latents) of this part.
            num: number of values per token.

        Returns:
            Values (num_tokens, at most num), which are 0 where other latents have larger ones, and their columns.
        """

    def largest(self, values: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """Returns the same for the `num` largest of the whole batch; `values` (num_values,) are this part's."""

    def smallest(self, value: Tensor) -> Tensor:
        """Returns the smallest of all parts' values, ()."""

"""Room for the entries of captured sparse steps, chosen by the host from their numbers.

How many entries a relu, a jumprelu or a gated SAE has, only the device knows, and a captured step has fixed shapes. So
such a step is two traces. The first computes the pre-activations and counts; the host reads the two numbers, where a
plain sparse step waits for them, too; the second computes all the rest, with entries padded to one of few sizes. As the
number is read before anything is computed with the entries, none is ever lost, and no step has to be undone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from saepipe.train.captured.settled_step import StepTensors
from saepipe.train.sae.encoding import PIECE
from saepipe.train.sae.room import count_entries
from saepipe.train.sae.screening import screens
from saepipe.train.sae.straight_through import DENSE_ABOVE
from saepipe.train.sae.transcoder import split_rows
from saepipe.train.step.state import Recipe

HEADROOM = 1.25
"""Room as a multiple of the number of entries for which it is chosen; numbers of consecutive steps differ by less."""

MULTIPLE = 128
"""Of which every room is one, so that few are different: the entries that the CUDA kernels sum at once."""


def needs_room(recipe: Recipe, batch: int) -> bool:
    """Returns whether captured sparse steps count their entries first: not if their number is fixed.

    On a CPU only where a plain step computes all pre-activations of a batch at once, too, so that both round alike.
    """
    config = recipe.config
    in_pieces = recipe.device.type == "cpu" and batch > PIECE
    screened = screens(config.screening, recipe.device, recipe.dtype)
    may_be_sparse = config.sparse_steps != "never" and not config.why_dense
    return may_be_sparse and config.sae.chosen_by_mask and not in_pieces and not screened


def memory_to_count(recipe: Recipe, batch: int) -> tuple[Tensor, ...]:
    """Returns memory for what `count_first` writes; none if no step counts."""
    if not needs_room(recipe, batch):
        return ()
    pre_acts = torch.empty(batch, recipe.config.sae.d_sae, dtype=recipe.dtype, device=recipe.device)
    return pre_acts, torch.empty(2, dtype=torch.int64, device=recipe.device)


@torch.no_grad()
def count_first(recipe: Recipe, tensors: StepTensors) -> None:
    """Writes the pre-activations of a step and the numbers of its entries; a function of tensors alone."""
    config, params = recipe.config, {**tensors.params, **tensors.buffers}
    x, _ = split_rows(recipe.scaled(tensors.rows), params["W_enc"].shape[0])
    pre_acts = config.sae.pre_acts(params, x, recipe.dtype)
    own_pre_acts, numbers = tensors.counted
    own_pre_acts.copy_(pre_acts)
    numbers.copy_(count_entries(config.sae, params, pre_acts, transformed=bool(config.transforms)))


class EntryRoom:
    """Chooses the room of each step, so that it rarely changes: every change is another trace."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Begins with none; `say` is told of each step that has more entries than there was room for."""
        self._say = say
        self._num_entries = self._num_near = 0
        self.num_overflows = 0

    def fitting(self, numbers: Sequence[int], most: int) -> tuple[int, int]:
        """Returns the room for a step.

        Args:
            numbers: of its entries, and of those whose slope is estimated apart.
            most: batch * d_sae.
        """
        num_entries, num_near = numbers
        if num_entries > self._num_entries > 0:
            self._overflowed(num_entries)
        self._num_entries = kept_or_new(self._num_entries, num_entries, most)
        if num_near > DENSE_ABOVE * most:  # as in a plain step
            return self._num_entries, 0
        self._num_near = kept_or_new(self._num_near, num_near, most)
        return self._num_entries, self._num_near

    def _overflowed(self, number: int) -> None:
        self.num_overflows += 1
        self._say(
            f"a step has {number:,} entries, more than the {self._num_entries:,} that captured steps had room for; "
            f"it is made plainly, and later ones have more room (overflow {self.num_overflows:,})"
        )


def kept_or_new(room: int, number: int, most: int) -> int:
    """Returns the room itself, unless it is too small for a number or more than twice what would be chosen now."""
    chosen = min(MULTIPLE * max(1, math.ceil(HEADROOM * number / MULTIPLE)), most)
    return room if max(1, number) <= room <= 2 * chosen else chosen

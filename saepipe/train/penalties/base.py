"""What a penalty is: settings, and one pure function of a step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from saepipe.data.component import Component
from saepipe.train.sae.base import Architecture
from saepipe.train.setting import Setting, SettingsNow, settings_of, within

State = dict[str, Tensor]
"""What a penalty remembers between steps (running means, ...)."""

Range = tuple[float, float]
"""The least and the greatest value that a statistic can have."""

ANY: Range = (0.0, math.inf)
SHARE: Range = (0.0, 1.0)


@dataclass(frozen=True)
class StepContext:
    """One variant's step, as a penalty sees it; in scaled units (E|x|^2 = d_in). Rows of W_dec have unit norm.

    Only the part of W_dec's gradient that turns a row is used; the part along the row is removed.
    """

    x: Tensor  # (batch, d_in) float32
    pre_acts: Tensor  # (batch, d_sae) in the compute dtype
    acts: Tensor  # (batch, d_sae) in the compute dtype, none negative; after the transforms
    acts_sum: Tensor  # (d_sae,) float32: acts summed over the batch
    gate_acts: Tensor  # (batch, d_sae): what makes a latent sparse; acts, but in a gated SAE its gate's relu
    x_hat: Tensor  # (batch, d_in) float32
    W_enc: Tensor  # (d_in, d_sae)
    b_enc: Tensor  # (d_sae,)
    W_dec: Tensor  # (d_sae, d_in)
    b_dec: Tensor  # (d_in,)
    threshold: Tensor | None  # (d_sae,) that pre_acts must exceed, where the architecture has one
    dead: Tensor  # (d_sae,) bool: silent for longer than the run's threshold, before this step
    any_dead: bool  # False where it is known, without waiting for the device, that `dead` is all False
    step: int  # counted from 0
    num_steps: int
    uniform: Tensor | None  # (d_sae,) random numbers in [0, 1) of this seed and step, for penalties that draw

    @property
    def power(self) -> Tensor:
        """E_b |x|^2 (), without gradient: it brings a term without units to those of the reconstruction error."""
        return self.x.square().sum(1).mean().detach()


@dataclass(frozen=True)
class Penalised:
    """What a penalty answers."""

    value: Tensor  # () float32, before its weight
    statistics: Mapping[str, Tensor]  # each () : what to log beside it
    state: State


class Penalty(Component):
    """A term of the loss: weight_now * value. `warmup` is the fraction of the run over which the weight rises from 0.

    Being pure (no attribute is written, no random number drawn), a penalty is resumed by its state alone.
    It sees one run, also when several are stacked: then under torch.func.vmap, so nothing in it may wait for a
    tensor's value or make a shape from it.
    """

    family: ClassVar[str] = "penalty"
    package: ClassVar[str] = "saepipe.train.penalties"
    statistics: ClassVar[Mapping[str, Range]] = {}
    """Every statistic it logs, and the range of each."""
    draws: ClassVar[bool] = False
    """Does it need `StepContext.uniform`?"""
    estimated: ClassVar[frozenset[str]] = frozenset()
    """Tensors of the context whose gradient is an estimate on purpose (straight-through), not the slope."""
    may_rest: ClassVar[bool] = False
    """May its value rightly be zero for a whole run?"""

    weight: Annotated[Setting, within(0, math.inf)]
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.0

    def refuses(self, sae: Architecture) -> str | None:
        """Why it cannot be used with an architecture; None where it can."""
        return None

    def doubts(self) -> Sequence[str]:
        """What the settings alone give reason to doubt; each becomes a warning of rule H4."""
        return ()

    def settings(self) -> dict[str, Setting]:
        """Those that may move, by name."""
        return settings_of(self)

    def init_state(self, d_in: int, d_sae: int) -> State:
        """State before the first step, on the CPU; shapes and dtypes never change afterwards."""
        return {}

    @abstractmethod
    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        """The term before its weight, averaged over the batch so that no weight depends on the batch size."""

"""What a penalty is: settings, and one pure function of a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from saepipe.data.component import Component

State = dict[str, Tensor]
"""What a penalty remembers between steps (running means, ...)."""

SettingsNow = Mapping[str, float]
"""The settings that follow a schedule, as they stand at this step."""


@dataclass(frozen=True)
class StepContext:
    """One variant's step, as a penalty sees it; in scaled units (E|x|^2 = d_in). Rows of W_dec have unit norm.

    Only the part of W_dec's gradient that turns a row is used; the part along the row is removed.
    """

    x: Tensor  # (batch, d_in) float32
    pre_acts: Tensor  # (batch, d_sae) in the compute dtype
    acts: Tensor  # (batch, d_sae) in the compute dtype, none negative
    acts_sum: Tensor  # (d_sae,) float32: acts summed over the batch
    x_hat: Tensor  # (batch, d_in) float32
    W_enc: Tensor  # (d_in, d_sae)
    b_enc: Tensor  # (d_sae,)
    W_dec: Tensor  # (d_sae, d_in)
    b_dec: Tensor  # (d_in,)
    dead: Tensor  # (d_sae,) bool: silent for longer than the run's threshold, before this step
    any_dead: bool  # False where it is known, without waiting for the device, that `dead` is all False


@dataclass(frozen=True)
class Penalised:
    """What a penalty answers."""

    value: Tensor  # () float32, before its weight
    statistics: Mapping[str, Tensor]  # each () : what to log beside it
    state: State


class Penalty(Component):
    """A term of the loss: weight_now * value. `warmup` is the fraction of the run over which the weight rises from 0.

    Being pure (no attribute is written, no random number drawn), a penalty is resumed by its state alone.
    """

    family: ClassVar[str] = "penalty"
    package: ClassVar[str] = "saepipe.train.penalties"
    weight: Annotated[float, Field(ge=0)]
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.0

    def init_state(self, d_in: int, d_sae: int) -> State:
        """State before the first step, on the CPU; shapes and dtypes never change afterwards."""
        return {}

    def settings_at(self, step: int, num_steps: int) -> SettingsNow:
        """Scheduled settings at a step counted from 0; the first step already has some weight."""
        length = self.warmup * num_steps
        return {"weight": self.weight * min(1.0, (step + 1) / length) if length else self.weight}

    @abstractmethod
    def __call__(self, ctx: StepContext, state: State, settings_now: SettingsNow) -> Penalised:
        """The term before its weight, averaged over the batch so that no weight depends on the batch size."""

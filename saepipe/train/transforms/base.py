"""What a transform is: settings, and one pure function of the activations between encoder and decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import AfterValidator
from torch import Tensor

from saepipe.data.config.component import Component
from saepipe.train.setting import Schedule, Setting, SettingsNow, settings_of

State = dict[str, Tensor]
"""What a transform remembers between steps."""


@dataclass(frozen=True)
class Codes:
    """One variant's activations as a transform sees them; in scaled units (E|x|^2 = d_in)."""

    pre_acts: Tensor  # (batch, d_sae) in the compute dtype
    acts: Tensor  # (batch, d_sae) in the compute dtype, none negative; after the transforms before this one
    W_dec: Tensor  # (d_sae, d_in) rows of unit norm
    seed: int  # of the run
    step: int  # counted from 0


@dataclass(frozen=True)
class Transformed:
    """What a transform answers."""

    acts: Tensor  # (batch, d_sae), none negative: what the decoder and the penalties see
    statistics: Mapping[str, Tensor]  # each () : what to log beside it
    state: State


class Transform(Component):
    """A change of the activations, made in training only: the SAE that is saved is the plain architecture.

    So a transform either leaves the activations alone on average, or has ended before the run does.
    It writes no attribute; what it draws at random is a function of (seed, step). Its state alone resumes it.
    """

    family: ClassVar[str] = "transform"
    package: ClassVar[str] = "saepipe.train.transforms"
    statistics: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Every statistic that it logs, with its range (low, high)."""

    def settings(self) -> dict[str, Setting]:
        """Those that may move, by name."""
        return settings_of(self)

    def init_state(self, d_in: int, d_sae: int) -> State:
        """State before the first step, on the CPU; shapes and dtypes never change afterwards."""
        return {}

    @abstractmethod
    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        """The activations that go on; `now` holds the settings that may follow a schedule, as they stand."""


def ends_at(off: float) -> AfterValidator:
    """Refuses a Setting that has another value when the run ends than the one at which its transform does nothing."""

    def check(setting: Setting) -> Setting:
        end = setting.end if isinstance(setting, Schedule) else setting
        if end != off:
            raise ValueError(
                f"must be {off:g} when the run ends, since the SAE that is saved has no such step; "
                f"give a schedule: {{start: ..., end: {off:g}, finish: 0.8}}"
            )
        return setting

    return AfterValidator(check)

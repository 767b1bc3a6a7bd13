"""The family of transforms: settings, and one pure function of the activations between encoder and decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import AfterValidator
from torch import Tensor

from saepipe.data.config.component import Component
from saepipe.train.schedule import Schedule
from saepipe.train.setting import Setting, SettingsNow, settings_of

State = dict[str, Tensor]
"""State that a transform keeps between steps."""


@dataclass(frozen=True)
class Codes:
    """Activations of one variant, as a transform sees them; in scaled units (E|x|^2 = d_in)."""

    read_pre_acts: Callable[[], Tensor]
    acts: Tensor  # (batch, d_sae) in the compute dtype, never negative; after the transforms before this one
    W_dec: Tensor  # (d_sae, d_in) rows of unit norm
    seed: int  # the run's
    step: int  # counted from 0

    @property
    def pre_acts(self) -> Tensor:
        """(batch, d_sae) in the compute dtype; a sparse step computes them when they are read."""
        return self.read_pre_acts()


@dataclass(frozen=True)
class Transformed:
    """The answer of a transform."""

    acts: Tensor  # (batch, d_sae), never negative: input of the decoder and the penalties
    statistics: Mapping[str, Tensor]  # () each, logged
    state: State


class Transform(Component):
    """A change of the activations in training only: the saved SAE is the plain architecture.

    So a transform must either leave the activations unchanged on average, or end before the run does.
    It writes no attribute, and its random numbers are a function of (seed, step), so its state alone resumes it.
    """

    family: ClassVar[str] = "transform"
    package: ClassVar[str] = "saepipe.train.transforms"
    statistics: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """All statistics that it logs, with their ranges (low, high)."""
    keeps_zeros: ClassVar[bool] = False
    """Whether activations that are 0 stay 0, so that steps may be sparse."""

    def settings(self) -> dict[str, Setting]:
        """Returns the settings that may change during a run, by name."""
        return settings_of(self)

    def init_state(self, d_in: int, d_sae: int) -> State:
        """Returns the state before the first step, on the CPU; shapes and dtypes never change afterwards."""
        return {}

    @abstractmethod
    def __call__(self, codes: Codes, state: State, now: SettingsNow) -> Transformed:
        """Transforms the activations; `now` holds this step's values of the settings that may follow a schedule."""


def ends_at(off: float) -> AfterValidator:
    """Returns a validator that refuses a Setting whose value at the end of the run is not `off`, a no-op."""

    def check(setting: Setting) -> Setting:
        end = setting.end if isinstance(setting, Schedule) else setting
        if end != off:
            raise ValueError(
                f"must be {off:g} when the run ends, since the saved SAE does without the transform; "
                f"give a schedule: {{start: ..., end: {off:g}, finish: 0.8}}"
            )
        return setting

    return AfterValidator(check)

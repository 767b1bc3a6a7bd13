"""Values of settings over a run: schedules, controllers, and the warm-up of a penalty's weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator
from torch import Tensor

from saepipe.data.config.base import Config, Count
from saepipe.data.errors import ConfigError
from saepipe.data.folders.health_rules import RULES

SettingsNow = Mapping[str, float | Tensor]
"""Settings of a component at one step; () tensors if they are steered or runs are stacked."""


class Schedule(Config):
    """Moves a setting from `start` to `end` between two fractions of the run; constant before and after.

    With u from 0 to 1 between them: linear start + u (end - start); exponential start (end / start)^u;
    cosine end + (start - end) (1 + cos(pi u)) / 2.
    """

    shape: Literal["linear", "exponential", "cosine"] = "linear"
    start: float
    end: float
    begin: Annotated[float, Field(ge=0, le=1)] = 0.0
    finish: Annotated[float, Field(ge=0, le=1)] = 1.0
    steps: Annotated[Count, Field(ge=1)] | None = Field(None, description="length in steps, instead of `finish`")

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if self.shape == "exponential" and self.start * self.end <= 0:
            raise ValueError(f"an exponential schedule cannot go from {self.start} to {self.end}: use linear")
        if self.steps is None and self.finish <= self.begin:
            raise ValueError(f"the schedule finishes at {self.finish} of the run, but begins at {self.begin}")
        return self

    def at(self, step: int, num_steps: int) -> float:
        """Returns the value at `step`, counted from 0; `end` is reached at the schedule's last step."""
        first, last = self._span(num_steps)
        u = min(1.0, max(0.0, (step - first) / max(1, last - first)))
        if self.shape == "linear":
            return self.start + u * (self.end - self.start)
        if self.shape == "exponential":
            return float(self.start * (self.end / self.start) ** u)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * u)) / 2

    def check_fits(self, key: str, num_steps: int) -> None:
        """Raises ConfigError (rule H19) if the run ends before the schedule does."""
        _, last = self._span(num_steps)
        if last >= num_steps:
            raise ConfigError(
                f"{RULES['H19'].label}: the schedule of {key} ends at step {last + 1:,}, but the run has "
                f"{num_steps:,} steps: it would stop at {self.at(num_steps - 1, num_steps):.3g} and never reach "
                f"{self.end:g}",
                hint="give its end as a fraction of the run (`finish: 0.8`), or train longer",
            )

    def _span(self, num_steps: int) -> tuple[int, int]:
        first = round(self.begin * num_steps)
        return first, first + self.steps - 1 if self.steps else max(first, round(self.finish * num_steps) - 1)


class Controller(Config):
    """Steers a setting, step by step, until a quantity is at its target, then holds it.

    log setting += gain * log(quantity / to) if raising the setting lowers the quantity, else -=. An integral
    controller on logarithms, which needs the scale of neither and comes to rest only at the target.
    """

    steer: str = Field("l0", description="`l0` (active latents per token of the batch) or a statistic of the component")
    to: float = Field(gt=0)
    start: float = Field(gt=0)
    setting_lowers: bool = Field(True, description="does a larger setting make the quantity smaller?")
    gain: float = Field(0.03, gt=0, le=1)
    reach: float = Field(100.0, gt=1, description="largest factor by which it may exceed or fall below `start`")
    until: Annotated[float, Field(gt=0, le=1)] = Field(0.8, description="fraction of the run after which it is held")

    def moved(self, log_setting: Tensor, quantity: Tensor, step: int, num_steps: int) -> Tensor:
        """Returns the logarithm of the setting after `step`, at which `quantity` was measured; all tensors are ()."""
        if step >= self.until * num_steps:
            return log_setting
        error = (quantity.clamp_min(1e-6) / self.to).log().clamp(-1.0, 1.0).to(log_setting.dtype)
        moved = log_setting + (self.gain if self.setting_lowers else -self.gain) * error
        # While the quantity lags far behind, the setting must not run away, since coming back would take as long.
        return moved.clamp(math.log(self.start / self.reach), math.log(self.start * self.reach))


class HasSettings(Protocol):
    """A component with settings that may change during a run."""

    def settings(self) -> Mapping[str, float | Schedule | Controller]: ...


def controllers(component: HasSettings) -> dict[str, Controller]:
    """Returns the settings that are steered, by name."""
    return {name: setting for name, setting in component.settings().items() if isinstance(setting, Controller)}


def moving_settings(component: HasSettings) -> set[str]:
    """Returns the names of the settings that have other values in other steps."""
    moving = {name for name, setting in component.settings().items() if isinstance(setting, Schedule | Controller)}
    return moving | ({"weight"} if getattr(component, "warmup", 0.0) else set())


def constant_settings(component: HasSettings) -> dict[str, float | Tensor]:
    """Returns the values of the settings that have one for the whole run."""
    moving = moving_settings(component)
    return {
        name: float(setting)
        for name, setting in component.settings().items()
        if name not in moving and not isinstance(setting, Schedule | Controller)
    }


def settings_at(
    component: HasSettings, step: int, num_steps: int, steered: Mapping[str, Tensor] = MappingProxyType({})
) -> dict[str, float | Tensor]:
    """Returns the values at a step of the settings that may change, with the weight's warm-up applied.

    Args:
        component: a penalty or a transform.
        step: counted from 0; the first step already has some weight.
        num_steps: number of steps of the run.
        steered: state of each controller, the logarithm () of its setting, by the setting's name.
    """
    now: dict[str, float | Tensor] = {}
    for name, setting in component.settings().items():
        if isinstance(setting, Controller):
            now[name] = steered[name].exp()
        else:
            now[name] = setting.at(step, num_steps) if isinstance(setting, Schedule) else float(setting)
    length = getattr(component, "warmup", 0.0) * num_steps
    if length:
        now["weight"] = now["weight"] * min(1.0, (step + 1) / length)
    return now

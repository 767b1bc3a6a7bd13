"""Settings of penalties and transforms that may change during a run: a number, a schedule, or a controller.

weight: 0.1                                                            constant
weight: {start: 0.1, end: 0.001, shape: exponential, finish: 0.5}      schedule, in fractions of the run
weight: {steer: l0, to: 64, start: 1.0}                                steered until a logged quantity is at its target
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Discriminator, Tag

from saepipe.data.config.component import Component
from saepipe.train.schedule import Controller, Schedule
from saepipe.train.schedule import SettingsNow as SettingsNow


def _kind(value: Any) -> str:
    if isinstance(value, Controller) or (isinstance(value, Mapping) and value.keys() & {"steer", "to"}):
        return "controller"
    return "schedule" if isinstance(value, Schedule | Mapping) else "number"


Setting = Annotated[
    Annotated[float, Tag("number")] | Annotated[Schedule, Tag("schedule")] | Annotated[Controller, Tag("controller")],
    Discriminator(_kind),
]
"""Type of a setting that may change during a run. A component reads its value at each step from its argument `now`."""


def configured_values(setting: Setting | None) -> list[float]:
    """Returns the values that a config gives a setting: a number, both ends of a schedule, or a controller's start."""
    if setting is None:
        return []
    if isinstance(setting, Schedule):
        return [setting.start, setting.end]
    return [setting.start] if isinstance(setting, Controller) else [setting]


def within(low: float, high: float) -> AfterValidator:
    """Returns a validator that bounds a Setting: the number, both ends of a schedule, or a controller's start."""

    def check(setting: Setting | None) -> Setting | None:
        if not all(low <= value <= high for value in configured_values(setting)):
            raise ValueError(f"must be within [{low:g}, {high:g}]")
        return setting

    return AfterValidator(check)


def settings_of(component: Component) -> dict[str, Setting]:
    """Returns a component's settings that may change during a run, by name; null settings are left out."""
    values = {name: getattr(component, name) for name in _setting_fields(type(component))}
    return {name: value for name, value in values.items() if value is not None}


@cache
def _setting_fields(member: type[Component]) -> tuple[str, ...]:
    setting = get_args(Setting)[0]
    return tuple(
        name
        for name, field in member.model_fields.items()
        if field.annotation == setting or Setting in get_args(field.annotation)
    )

"""What can be known, before a run, of a setting that may move."""

from __future__ import annotations

from saepipe.train.setting import Schedule, Setting


def numbers(setting: Setting | None) -> list[float]:
    """The ends of a schedule, where a controller starts, or the number itself; none for null."""
    if setting is None:
        return []
    if isinstance(setting, Schedule):
        return [setting.start, setting.end]
    return [setting] if isinstance(setting, int | float) else [setting.start]

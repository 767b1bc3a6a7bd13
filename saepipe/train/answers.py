"""Checks of what a component returned, at once: a wrong type or shape would otherwise fail far from its cause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from saepipe.data.config.component import Component
from saepipe.data.config.plugin_errors import AnswerError


def check_type(answer: Any, kind: type, component: Component, method: str = "__call__") -> None:
    """Raises AnswerError unless a method returned a `kind`."""
    if not isinstance(answer, kind):
        raise AnswerError(component, method, described(answer), f"a {kind.__name__}")


def check_tensor(
    value: Any, shape: tuple[int, ...], component: Component, what: str, axes: str, method: str = "__call__"
) -> None:
    """Raises AnswerError unless `what` is a tensor of a shape, which `axes` names: `(batch, d_sae)`."""
    if not (isinstance(value, Tensor) and value.shape == shape):
        wanted = f"a scalar tensor, shape {shape}" if shape == () else f"a tensor {axes}, shape {shape}"
        raise AnswerError(component, method, f"as {what} {described(value)}", wanted)


def check_scalars(values: Mapping[str, Any], component: Component) -> None:
    """Raises AnswerError unless every statistic is a scalar tensor."""
    for name, value in values.items():
        check_tensor(value, (), component, f"statistic {name}", "()")


def described(value: Any) -> str:
    """Returns `a tensor of shape (17,)`, or the type of anything else."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__} ({str(value)[:40]})"

"""Plugins before the training: two steps on random rows, and the contract of penalties."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saepipe.data.config.component import Component, is_plugin
from saepipe.data.config.plugin_errors import AnswerError, defined_at, plugin_line, plugin_mistake, summary
from saepipe.data.errors import ConfigError, SaepipeError, is_out_of_memory
from saepipe.train.config import TrainConfig
from saepipe.train.health.dry_step import is_shape_error, separate_parts, tiny_recipe, two_steps
from saepipe.train.penalties.base import Penalty
from saepipe.train.penalties.contract import D_SAE, first_breach
from saepipe.train.sae.relu import ReLU
from saepipe.train.step.state import Recipe


def check_plugins(recipes: Iterable[Recipe]) -> None:
    """Raises ConfigError, with file and line, for the first plugin that fails or breaks its family's contract."""
    checked = set()
    for recipe in recipes:
        for name, component, config in _plugin_parts(recipe.config):
            key = repr((config.sae, component))
            if key not in checked:
                checked.add(key)
                _check_steps(recipe, name, component, config)
                if isinstance(component, Penalty) and config.health.contract:
                    _check_contract(name, component)


def _plugin_parts(config: TrainConfig) -> Iterator[tuple[str, Component, TrainConfig]]:
    """Yields each plugin of a config, with a config of the architecture and this component only."""
    components = [config.sae, *(component for _, component in config.components())]
    for (name, part), component in zip(separate_parts(config), components, strict=True):
        if is_plugin(type(component)):
            yield name, component, part


def _check_steps(recipe: Recipe, name: str, component: Component, config: TrainConfig) -> None:
    tiny = tiny_recipe(recipe, config)
    try:
        two_steps(tiny)
    except Exception as error:
        if isinstance(error, SaepipeError) or is_out_of_memory(error):
            raise
        if not is_shape_error(error) and (mistake := plugin_mistake(error)):
            raise mistake from error
        where = plugin_line(error) or defined_at(type(component), _main_method(component))
        when = f"with d_in {tiny.d_in}, d_sae {config.sae.d_sae} and batch {tiny.config.batch_size}"
        advice = "it may confuse two of these axes" if is_shape_error(error) else "check what it returns"
        raise ConfigError(f"{name} ({where}) fails {when}: {summary(error)}", hint=advice) from error


def _check_contract(name: str, penalty: Penalty) -> None:
    if penalty.refuses(ReLU(d_sae=D_SAE)):  # the contract's step is a ReLU's
        return
    try:
        breach = first_breach(penalty, stacked=False)
    except Exception as error:
        if isinstance(error, AnswerError) or plugin_line(error) is None:
            raise plugin_mistake(error) or error from error
        return  # it works in the run's own steps, which were tried; the contract's are in float64, of a ReLU
    if breach:
        where = defined_at(type(penalty), "__call__")
        raise ConfigError(f"{name} ({where}): {breach}", hint="saepipe validate shows what a penalty must do")


def _main_method(component: Component) -> str:
    return "__call__" if callable(component) else "activate"

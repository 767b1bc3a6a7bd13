"""Arms of a study as train configs: each at the L0 that all share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saepipe.data.config.base import fingerprint
from saepipe.data.config.slug import slug
from saepipe.data.config.yaml_file import apply_override
from saepipe.data.errors import ConfigError
from saepipe.evaluate.study.config import SHARED_BY_ARMS, StudyConfig
from saepipe.train.config import TrainConfig
from saepipe.train.control_kinds import Control
from saepipe.train.controls import control_config


@dataclass(frozen=True)
class Arm:
    """One recipe of a study, at one L0; its runs differ in seeds alone."""

    name: str
    label: str
    """Name of its folder."""
    settings: Mapping[str, Any]
    """Plain train config without cache and seeds, before it is brought to an L0."""
    l0: float | None
    """Active latents per token that it is to have; None: as configured."""
    is_control: bool = False

    @property
    def fingerprint(self) -> str:
        """Digest of what it is: an arm of the same label with other settings is another one."""
        return fingerprint([dict(self.settings), self.l0])

    @property
    def keeps_whole_k(self) -> bool:
        """True if each token has k latents, a whole number: its L0 cannot be between two."""
        return isinstance(TrainConfig.parse(self.settings).sae.num_active, int)

    def settings_at(self, l0: float | None) -> Mapping[str, Any]:
        """Returns its settings, brought to an L0 unless that is None."""
        return self.settings if l0 is None else brought_to(self.settings, l0, self.name)


def arms_of(config: StudyConfig) -> list[Arm]:
    """Returns every arm of a study, each before its controls, at every L0: the baseline first at each.

    Raises:
        ConfigError: if an arm's settings are wrong, its L0 cannot be set, or a control has no arm that it controls.
    """
    shared = {**config.train, "plugins": [str(path) for path in config.plugins], "cache": "cache"}
    settings: dict[tuple[str, Control | None], dict[str, Any]] = {}
    for name, overrides in config.overrides():
        plain = _overridden(shared, overrides, name)
        settings |= {(name, None): plain, **_controls(name, plain, config.controls)}
    for control in config.controls:
        if control not in {kind for _, kind in settings}:
            _control(next(iter(settings.values())), control)  # raises why
    arms = []
    for l0 in config.l0s or (None,):
        for (name, kind), plain in settings.items():
            own = f"{name}-{kind}" if kind else name
            # The label depends on nothing else of the study, so that a further L0 renames no arm.
            arms.append(Arm(own, slug(f"{own}-l0-{l0:g}" if l0 else own), plain, l0, kind is not None))
    if twice := [label for label, count in Counter(arm.label for arm in arms).items() if count > 1]:
        raise ConfigError(f"two arms are called {', '.join(twice)}", hint="rename one")
    for arm in arms:
        TrainConfig.parse(arm.settings_at(arm.l0), source=f"arm {arm.name!r}")
    return arms


def _controls(
    name: str, settings: dict[str, Any], controls: Sequence[Control]
) -> dict[tuple[str, Control | None], dict[str, Any]]:
    """Returns those of the controls that an arm can have, by its name and their kind."""
    possible: dict[tuple[str, Control | None], dict[str, Any]] = {}
    for control in controls:
        with suppress(ConfigError):  # such as random pairs for an arm without pairs
            possible[name, control] = _control(settings, control)
    return possible


def _control(settings: dict[str, Any], control: Control) -> dict[str, Any]:
    """Returns the settings of an arm's control; raises ConfigError if it can have none."""
    config = TrainConfig.parse(settings)
    return control_config(config, control).to_dict()


def _overridden(shared: Mapping[str, Any], overrides: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the settings of an arm as a train config gives them, with every default."""
    raw = TrainConfig.parse(shared, source="train").to_dict()
    for key, value in overrides.items():
        apply_override(raw, f"{key}={yaml.safe_dump(value, default_flow_style=True)}")
    return TrainConfig.parse(raw, source=f"arm {name!r}").to_dict()


def brought_to(settings: Mapping[str, Any], l0: float, name: str) -> dict[str, Any]:
    """Returns a train config that is trained to have `l0` active latents per token.

    Where the architecture keeps a number of them, that is its k. Elsewhere it is the target of the penalty that makes
    it sparse: of an `l0_target`, of a jumprelu's `l0`, or of an `l0_target` put around the first other one.

    Raises:
        ConfigError: if no penalty makes it sparse.
    """
    config = TrainConfig.parse(settings, source=f"arm {name!r}")
    plain = dict(settings)
    if isinstance(plain["sae"].get("k"), Mapping):
        raise ConfigError(f"k of arm {name!r} follows a schedule, and `l0` would end it", hint="leave out `l0`")
    if config.sae.num_active is not None:
        return plain | {"sae": {**plain["sae"], "k": l0 if l0 % 1 else int(l0)}}
    penalties = [dict(penalty) for penalty in plain["penalties"]]
    index = next((index for index, penalty in enumerate(config.penalties) if penalty.lowers_l0), None)
    if index is None:
        raise ConfigError(
            f"arm {name!r} cannot be brought to L0 {l0:g}: no penalty of it makes a {config.sae.name} sparse",
            hint="give it one such as l1, or leave out `l0`",
        )
    penalties[index] = _steered(penalties[index], l0, config.sae.name)
    return plain | {"penalties": penalties}


def _steered(penalty: Mapping[str, Any], l0: float, architecture: str) -> dict[str, Any]:
    if penalty["name"] == "l0_target":
        return {**penalty, "l0": l0}
    if penalty["name"] == "l0" and architecture == "jumprelu":
        return {**penalty, "target": l0}
    return {"name": "l0_target", "l0": l0, "penalty": dict(penalty)}


def train_config(
    config: StudyConfig, arms: Sequence[Arm], seeds: Sequence[int], trained_to: Mapping[str, float], cache: Path
) -> TrainConfig:
    """Returns one train config of all arms and seeds, whose runs share a stream of batches.

    Args:
        config: the study.
        arms: those to train.
        seeds: of the runs.
        trained_to: L0 by label of the arms that missed theirs and are trained again, to another.
        cache: folder of the cache.
    """
    first = arms[0].settings_at(trained_to.get(arms[0].label, arms[0].l0))
    return TrainConfig.parse(
        {
            **first,
            "cache": str(cache),
            "seeds": list(seeds),
            "primary_metrics": dict(config.primary_metrics),
            "variants": [{"name": arm.label, **_differences(arm, trained_to)} for arm in arms],
        }
    )


def _differences(arm: Arm, trained_to: Mapping[str, float]) -> dict[str, Any]:
    """Returns all settings of an arm, as overrides by its top-level keys."""
    settings = arm.settings_at(trained_to.get(arm.label, arm.l0))
    return {key: value for key, value in settings.items() if key not in SHARED_BY_ARMS}


def by_l0(arms: Sequence[Arm]) -> Iterator[list[Arm]]:
    """Yields the arms of each L0, which are compared with each other."""
    for l0 in dict.fromkeys(arm.l0 for arm in arms):
        yield [arm for arm in arms if arm.l0 == l0]

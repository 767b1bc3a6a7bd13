"""Mistakes in a study's file, each told before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.repository import EXAMPLES
from helpers.small_study import plain_study
from saepipe.data.errors import ConfigError
from saepipe.evaluate.study.config import StudyConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, 1]}, "2 seeds cannot give a verdict, whatever the arms do: give at least 3"),
        ({"seeds": [0, 1, 1]}, "seeds name one twice"),
        ({"arms": [{"penalties": []}]}, "arm 1 has no `name`"),
        ({"arms": [{"name": "baseline"}]}, "two arms have one name: baseline, baseline"),
        ({"arms": [{"name": "new", "cache": "other", "seed": 3}]}, "arm new has cache, seed, which all arms share"),
        ({"arms": []}, "arms"),
        (
            {"evaluate": {"metrics": [{"name": "core"}, {"name": "stability"}]}, "primary_metrics": {"pw_mcc": 0.1}},
            "pw_mcc is of several seeds at once, so a pilot cannot tell its spread",
        ),
        ({"cache": None}, "give `harvest`, settings of the cache to make, or `cache`"),
        ({"train": {"seeds": [0], "cache": "x"}}, "train has cache, seeds, which stand beside `train`"),
        ({"primary_metrics": {"explained_varience": 0.1}}, "did you mean explained_variance"),
        (
            {"primary_metrics": {"mean_full_absorption_score": 0.1}},
            "mean_full_absorption_score would not be measured: no metric under evaluate.metrics has it",
        ),
        ({"spreads": {"delta_ce": 0.1}}, "spreads has delta_ce, which is no primary metric"),
        ({"evaluate": {"metrics": [{"name": "geometry"}]}, "primary_metrics": {"frac_dead": 0.1}}, "lacks core"),
        ({"questoin": "?"}, "did you mean 'question'"),
    ],
)
def test_a_mistake_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        StudyConfig.parse(plain_study("cache") | changes)
    assert message in str(raised.value)


def test_one_l0_is_a_list_of_one() -> None:
    assert StudyConfig.parse(plain_study("cache", l0=8)).l0s == (8.0,)
    assert StudyConfig.parse(plain_study("cache", l0=[4, 8.5])).l0s == (4.0, 8.5)
    assert StudyConfig.parse(plain_study("cache")).l0s == ()


def test_more_seeds_follow_the_largest() -> None:
    config = StudyConfig.parse(plain_study("cache", seeds=[3, 0, 1]))
    assert config.all_seeds == (3, 0, 1)
    assert StudyConfig.parse(plain_study("cache", seeds=[3, 0, 1], more_seeds=2)).all_seeds == (3, 0, 1, 4, 5)


def test_the_example_is_one_short_file() -> None:
    path = EXAMPLES / "study.yaml"
    assert len(path.read_text().splitlines()) <= 25
    config = StudyConfig.load(path)
    assert [name for name, _ in config.overrides()] == ["baseline", "tanh", "placebo"]
    assert config.cache_at(Path("study")) == Path("study/cache")

"""Arms brought to an L0, whatever makes them sparse, and the ids of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.repository import EXAMPLES
from helpers.small_study import plain_study
from saepipe.data.errors import ConfigError
from saepipe.evaluate.study.arm_configs import arms_of, brought_to, by_l0, train_config
from saepipe.evaluate.study.config import StudyConfig
from saepipe.train.config import TrainConfig
from saepipe.train.variants import expand


def brought(sae: dict[str, Any], *penalties: dict[str, Any], l0: float = 6.0) -> TrainConfig:
    settings = {"cache": "cache", "steps": 10, "sae": {"d_sae": 64, **sae}, "penalties": list(penalties)}
    return TrainConfig.parse(brought_to(TrainConfig.parse(settings).to_dict(), l0, "new"))


def test_k_is_the_l0_of_what_keeps_k() -> None:
    assert brought({"name": "topk", "k": 3}, {"name": "auxk"}).sae.num_active == 6
    assert brought({"name": "batch_topk", "k": 3}, l0=6.5).sae.num_active == 6.5


@pytest.mark.parametrize(
    ("given", "steered"),
    [
        ({"name": "l1", "weight": 2.0}, {"name": "l1", "weight": 2.0}),
        ({"name": "tanh", "c": 0.5, "weight": 1.0}, {"name": "tanh", "c": 0.5, "weight": 1.0}),
        ({"name": "l0_target", "l0": 3, "penalty": {"name": "log", "weight": 1.0}}, {"name": "log", "weight": 1.0}),
    ],
)
def test_the_penalty_that_makes_sparse_is_steered(given: dict[str, Any], steered: dict[str, Any]) -> None:
    other, penalty = brought({"name": "relu"}, {"name": "ortsae", "weight": 0.5}, given).to_dict()["penalties"]
    assert other["name"] == "ortsae"
    assert (penalty["name"], penalty["l0"]) == ("l0_target", 6.0)
    assert steered.items() <= penalty["penalty"].items()


def test_the_thresholds_of_a_jumprelu_have_a_target() -> None:
    (penalty,) = brought({"name": "jumprelu"}, {"name": "l0", "weight": 0.3}).to_dict()["penalties"]
    assert (penalty["name"], penalty["target"], penalty["weight"]) == ("l0", 6.0, 0.3)


def test_without_a_penalty_that_makes_sparse_there_is_no_l0() -> None:
    with pytest.raises(ConfigError, match="'new' cannot be brought to L0 6: no penalty of it makes a relu sparse"):
        brought({"name": "relu"}, {"name": "ortsae", "weight": 0.5})


def test_every_arm_stands_at_every_l0() -> None:
    arms = arms_of(StudyConfig.parse(plain_study("cache", l0=[4, 8])))
    labels = [[arm.label for arm in group] for group in by_l0(arms)]
    assert labels == [
        ["baseline-l0-4", "slow-l0-4", "placebo-l0-4"],
        ["baseline-l0-8", "slow-l0-8", "placebo-l0-8"],
    ]
    config = StudyConfig.parse(plain_study("cache", l0=[4, 8]))
    runs = expand(train_config(config, arms, config.seeds, {"slow-l0-8": 9.0}, Path("cache")))
    ks = {run.name: run.config.sae.num_active for run in runs}
    assert ks == {
        "baseline-l0-4": 4,
        "slow-l0-4": 4,
        "placebo-l0-4": 4,
        "baseline-l0-8": 8,
        "slow-l0-8": 9,
        "placebo-l0-8": 8,
    }


def test_a_further_l0_leaves_the_arms_that_are_there() -> None:
    one, both = (arms_of(StudyConfig.parse(plain_study("cache", l0=l0))) for l0 in (8, [4, 8]))
    assert one == both[3:]
    plain = [arm.label for arm in arms_of(StudyConfig.parse(plain_study("cache", l0=[])))]
    assert plain == ["baseline", "slow", "placebo"]


def test_every_arm_has_the_controls_that_it_can_have() -> None:
    arms = [{"name": "pairs", "penalties": [{"name": "ortsae", "weight": 0.5}]}]
    study = plain_study("cache", arms=arms, controls=["frozen_decoder", "random_pairs"], l0=8)
    settings = {arm.label: TrainConfig.parse(arm.settings) for arm in arms_of(StudyConfig.parse(study))}
    assert list(settings) == [
        "baseline-l0-8",
        "baseline-frozen_decoder-l0-8",
        "pairs-l0-8",
        "pairs-frozen_decoder-l0-8",
        "pairs-random_pairs-l0-8",
    ]
    assert [config.freeze for config in settings.values()] == [None, "decoder", None, "decoder", None]
    assert [penalty.name for penalty in settings["pairs-random_pairs-l0-8"].penalties] == ["random_pairs"]


def test_random_pairs_that_control_nothing_are_refused() -> None:
    arms = [{"name": "tanh", "penalties": [{"name": "tanh", "weight": 0.5}]}]
    with pytest.raises(ConfigError, match="random_pairs: no penalty of the variant selects pairs"):
        arms_of(StudyConfig.parse(plain_study("cache", arms=arms, controls=["random_pairs"])))


def test_controls_that_only_some_arms_can_have_are_left_out_elsewhere() -> None:
    """A frozen encoder makes no relu sparse."""
    relu = {"name": "relu", "sae": {"name": "relu", "d_sae": 64}, "penalties": [{"name": "l1", "weight": 1.0}]}
    study = plain_study("cache", arms=[relu], controls=["frozen_encoder"], l0=8)
    labels = [arm.label for arm in arms_of(StudyConfig.parse(study))]
    assert labels == ["baseline-l0-8", "baseline-frozen_encoder-l0-8", "relu-l0-8"]


def test_two_arms_of_one_name_are_refused() -> None:
    arms = [{"name": "baseline-frozen_decoder", "optimizer.lr": 1e-4}]
    with pytest.raises(ConfigError, match="two arms are called baseline-frozen_decoder"):
        arms_of(StudyConfig.parse(plain_study("cache", arms=arms, controls=["frozen_decoder"])))


def test_a_schedule_of_k_is_not_cut_off() -> None:
    with pytest.raises(ConfigError, match="k of arm 'new' follows a schedule"):
        brought({"name": "topk", "k": {"start": 20, "end": 5}})


def test_an_arm_of_a_plugin_leaves_the_ids_of_the_others() -> None:
    """A new variant may join a study that has run."""
    relu = {"name": "relu", "d_sae": 64}
    train = {**plain_study("cache")["train"], "sae": relu, "penalties": [{"name": "l1", "weight": 1.0}]}
    arms = [{"name": "tanh", "penalties": [{"name": "tanh", "weight": 1.0}]}]
    joined = [*arms, {"name": "hoyer", "penalties": [{"name": "hoyer", "weight": 1.0}]}]
    plugins = {"plugins": [str(EXAMPLES / "hoyer.py")]}

    def ids(study: dict[str, Any]) -> dict[str, str]:
        config = StudyConfig.parse(study)
        runs = expand(train_config(config, arms_of(config), [0], {}, Path("cache")))
        return {run.name: run.config.run_id("cache") for run in runs}

    before = ids(plain_study("cache", train=train, arms=arms, l0=8))
    after = ids(plain_study("cache", train=train, arms=joined, l0=8, **plugins))
    assert before.keys() == {"baseline-l0-8", "tanh-l0-8"}
    assert after.keys() == {"baseline-l0-8", "tanh-l0-8", "hoyer-l0-8"}
    assert before.items() <= after.items()


def test_a_mistake_in_an_arm_names_it() -> None:
    arms = [{"name": "odd", "penalties": [{"name": "ortsea", "weight": 1.0}]}]
    with pytest.raises(ConfigError, match=r"(?s)arm 'odd'.*did you mean 'ortsae'"):
        arms_of(StudyConfig.parse(plain_study("cache", arms=arms)))

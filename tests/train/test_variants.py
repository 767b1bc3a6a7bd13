from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.repository import EXAMPLES
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.plan import plan_runs
from saepipe.train.variants import expand

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]


def test_a_config_without_variants_is_one_run(config: Make) -> None:
    (run,) = expand(config(seed=3))
    assert (run.name, run.seed, run.folder) == ("base", 3, "base/seed-3")
    assert run.config == config(seed=3)


def test_a_list_times_seeds(config: Make) -> None:
    variants = [{"name": "plain"}, {"penalties.0.weight": 1e-5}, {"sae": {"name": "topk", "d_sae": 40, "k": 4}}]
    runs = expand(config(variants=variants, seeds=[0, 5]))
    assert [run.folder for run in runs] == [
        f"{name}/seed-{seed}" for name in ("plain", "weight=1e-05", "sae=topk") for seed in (0, 5)
    ]
    assert [run.config.seed for run in runs] == [0, 5] * 3
    assert runs[0].config == config()
    assert runs[2].config.penalties[0].weight == 1e-5
    assert runs[4].config.sae.name == "topk"


def test_a_grid_is_every_combination_and_a_zip_pairs_values(config: Make) -> None:
    values = {"penalties.0.weight": [0.1, 0.2], "optimizer.lr": [1e-3, 2e-3]}
    grid = expand(config(variants={"grid": values}))
    assert [(run.config.penalties[0].weight, run.config.optimizer.lr) for run in grid] == [
        (0.1, 1e-3),
        (0.1, 2e-3),
        (0.2, 1e-3),
        (0.2, 2e-3),
    ]
    assert grid[0].name == "weight=0.1,lr=0.001"
    zipped = expand(config(variants={"zip": values}))
    assert [(run.config.penalties[0].weight, run.config.optimizer.lr) for run in zipped] == [(0.1, 1e-3), (0.2, 2e-3)]


def test_a_key_that_ends_like_another_is_named_in_full(config: Make) -> None:
    grid = {"optimizer.warmup": [0.1], "penalties.0.warmup": [0.2]}
    assert expand(config(variants={"grid": grid}))[0].name == "optimizer.warmup=0.1,penalties.0.warmup=0.2"


def test_a_plugin_variant_does_not_change_the_run_ids_of_the_others(config: Make, tmp_path: Path) -> None:
    plain = {"name": "plain"}
    hoyer = {"name": "hoyer", "penalties.0": {"name": "hoyer", "weight": 1.0}}
    (before,) = plan_runs(config(variants=[plain]), tmp_path)
    same, joined = plan_runs(config(variants=[plain, hoyer], plugins=[str(EXAMPLES / "hoyer.py")]), tmp_path)
    assert same.run_id == before.run_id
    assert same.recipe.config.plugin_sources == {}
    assert joined.recipe.config.plugin_sources.keys() == {"hoyer"}
    assert "hoyer" in joined.recipe.config.identity()["plugin_sources"]


def test_a_name_becomes_one_folder(config: Make) -> None:
    runs = expand(config(variants=[{"name": "a/../b c"}]))
    assert runs[0].name == "a-..-b-c"


@pytest.mark.parametrize("name", ["..", ".", ".hidden", "../b", "x" * 201, "é" * 101])
def test_a_name_that_cannot_be_a_folder_is_refused(config: Make, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot name a folder|more than 200"):
        expand(config(variants=[{"name": name}]))


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([{"penalties.0.wieght": 1}], "'weight'"),
        ([{"penalties.4.weight": 1}], "'4'"),
        ([{"optimiser.lr": 1}], "'optimizer'"),
        ([{"seed": 4}], "seeds: `seeds:`"),
        ([{"name": "a"}, {"name": "a", "optimizer.lr": 1}], "same name"),
        ([{"name": "a"}, {"name": "b", "log_every": 9}], "same run"),
        ({"zip": {"optimizer.lr": [1, 2], "batch_size": [3]}}, "same length"),
        ({"zip": {"optimizer.lr": [1]}, "grid": {"batch_size": [3]}}, "not several"),
    ],
)
def test_invalid_variants_are_refused(config: Make, variants: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(config(variants=variants))


def test_the_other_variants_are_not_copied_for_each(config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    whole = config(variants={"grid": {"optimizer.lr": [1e-3 * (1 + number) for number in range(20)]}})
    serialised = TrainConfig.to_dict

    def counted(self: TrainConfig) -> dict[str, Any]:
        copied.append(sum(map(len, self.variants.grid.values())))
        return serialised(self)

    monkeypatch.setattr(TrainConfig, "to_dict", counted)
    assert len(expand(whole)) == 20
    assert sum(copied) == 0

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.repository import CONFIGS
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig, labels
from saepipe.train.penalties.auxk import AuxK
from saepipe.train.penalties.base import Penalty
from saepipe.train.penalties.l1 import L1

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("mistake", "advice"),
    [
        ({"penalties": [{"name": "l1", "wieght": 1}]}, "'weight'"),
        ({"penalties": [{"name": "ll1", "weight": 1}]}, "'l1'"),
        ({"sae": {"name": "topk", "d_sea": 4, "k": 2}}, "'d_sae'"),
        ({"sae": {"name": "relue", "d_sae": 4}}, "'relu'"),
        ({"optimizer": {"warm_up": 1}}, "'warmup'"),
        ({"batchsize": 4}, "'batch_size'"),
        ({"variants": {"gird": {"seed": [1]}}}, "'grid'"),
    ],
)
def test_a_typo_names_the_nearest_key(config: Make, mistake: dict[str, object], advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        config(**mistake)


def test_all_mistakes_are_reported_at_once(config: Make) -> None:
    with pytest.raises(ConfigError, match="3 mistakes"):
        config(batch_size=0, optimizer={"lr": -1}, penalties=[{"name": "l1"}])


@pytest.mark.parametrize("length", [{"steps": 0}, {"steps": None, "tokens": 16}, {"steps": None, "epochs": 0}])
def test_zero_steps_are_refused(config: Make, length: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        config(**length)


def test_less_of_an_epoch_than_one_batch_is_refused(config: Make) -> None:
    with pytest.raises(ConfigError, match="zero steps"):
        config(steps=None, epochs=0.001).num_steps(1000)


@pytest.mark.parametrize("length", [{}, {"tokens": 1000}, {"epochs": 1}])
def test_exactly_one_length_must_be_given(config: Make, length: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="exactly one of steps, tokens, epochs"):
        config(**length, steps=5 if length else None)


def test_the_study_takes_4882_steps(config: Make) -> None:
    study = TrainConfig.load(CONFIGS / "study-baseline.yaml")
    assert study.num_steps(10_000_000) == 4882
    assert round(study.optimizer.warmup * 4882) == 1000


@pytest.mark.parametrize(("length", "steps"), [({"tokens": "1k"}, 58), ({"epochs": 2}, 117), ({"steps": 7}, 7)])
def test_lengths_in_tokens_and_epochs_become_steps(config: Make, length: dict[str, object], steps: int) -> None:
    resolved = config(**{"steps": None, **length}).resolved(hook="h", num_rows=1000, device=CPU)
    assert resolved.steps == steps
    assert resolved.tokens is None
    assert resolved.epochs is None
    assert resolved.dead.after_tokens == steps * 17 // 20
    assert resolved.compute_dtype == "float32"


def test_in_a_long_run_a_latent_is_dead_after_ten_million_silent_tokens(config: Make) -> None:
    resolved = config(steps=1_000_000, batch_size=2048).resolved(hook="h", num_rows=1000, device=CPU)
    assert resolved.dead.after_tokens == 10_000_000


def test_the_run_id_depends_only_on_what_is_computed(config: Make) -> None:
    base = config().run_id("cache")
    assert config(log_every=7, checkpoint_every=9, cache="elsewhere").run_id("cache") == base
    assert config(compile="inductor").run_id("cache") == base
    assert config(seed=1).run_id("cache") != base
    assert config(optimizer={"lr": 1e-3}).run_id("cache") != base
    assert config().run_id("another cache") != base


def test_compiled_steps_are_not_exact(config: Make) -> None:
    def exact(**changes: Any) -> bool | None:
        return config(**changes).resolved(hook="h", num_rows=1000, device=CPU).exact

    assert exact()
    assert not exact(compile="inductor")
    with pytest.raises(ConfigError, match="inductor cannot be exact"):
        config(compile="inductor", exact=True)


def test_a_momentum_of_one_is_refused(config: Make) -> None:
    with pytest.raises(ConfigError, match="must be less than 1"):
        config(optimizer={"betas": [1.0, 0.9]})


def test_a_schedule_cannot_be_longer_than_the_run(config: Make) -> None:
    with pytest.raises(ConfigError, match="longer than the run"):
        config(optimizer={"warmup": 0.6, "decay": 0.6})


def test_a_penalty_named_twice_is_numbered() -> None:
    assert labels([L1(weight=1), AuxK(), L1(weight=2)]) == ["l1", "auxk", "l1.2"]


def test_a_plugin_joins_the_family_and_its_text_the_ids_of_the_runs_that_use_it(config: Make, tmp_path: Path) -> None:
    plugin = tmp_path / "l_half.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from saepipe.train.penalties.base import Penalised, Penalty\n"
        "class LHalf(Penalty):\n"
        "    name: Literal['l_half'] = 'l_half'\n"
        "    def __call__(self, ctx, state, now):\n"
        "        return Penalised(ctx.acts.clamp_min(1e-6).sqrt().sum() / len(ctx.x), {}, state)\n"
    )

    def run_id(penalty: str) -> str:
        changed = config(plugins=[str(plugin)], penalties=[{"name": penalty, "weight": 0.1}])
        assert type(changed.penalties[0]).__name__ == ("LHalf" if penalty == "l_half" else "L1")
        return changed.resolved(hook="h", num_rows=1000, device=CPU).run_id("cache")

    used, unused = run_id("l_half"), run_id("l1")
    plugin.write_text(plugin.read_text() + "# another text\n")
    assert run_id("l_half") != used
    assert run_id("l1") == unused
    Penalty.members.pop("l_half")  # other tests run over every member

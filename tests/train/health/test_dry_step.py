"""The dry step finds no fault in any architecture, penalty or transform of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.data.config.component import import_members
from saepipe.train.config import TrainConfig
from saepipe.train.health.dry_step import dry_step
from saepipe.train.penalties.base import Penalty
from saepipe.train.plan import plan_runs
from saepipe.train.sae.base import Architecture
from saepipe.train.step.state import fresh_state, initial_params
from saepipe.train.transforms.base import Transform

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]
for family in (Architecture, Penalty, Transform):
    import_members(family.package)

NEEDED: dict[str, dict[str, Any]] = {"topk": {"k": 4}, "batch_topk": {"k": 4}, "matryoshka_batch_topk": {"k": 4}}
NEEDED |= {"matching_pursuit": {"k": 4}}
NEEDED |= {"l0_target": {"l0": 4.0}, "auxk": {}}


def findings(config: TrainConfig, folder: Path) -> list[str]:
    (run,) = plan_runs(config, folder)
    state = fresh_state(run.recipe, initial_params(run.recipe))
    rows = torch.randn(34, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    return [str(finding) for finding in dry_step(run.recipe, state, rows.split(17))]


@pytest.mark.parametrize("name", sorted(Architecture.members))
@pytest.mark.parametrize("d_sae", [17, 24, 40])  # also equal to d_in or to the batch of the random rows
def test_every_architecture_passes(config: Make, tmp_path: Path, name: str, d_sae: int) -> None:
    sae = {"name": name, "d_sae": d_sae, **NEEDED.get(name, {})}
    assert findings(config(sae=sae, penalties=[]), tmp_path) == []


@pytest.mark.parametrize("name", sorted(Penalty.members))
def test_every_penalty_passes(config: Make, tmp_path: Path, name: str) -> None:
    sae = {"name": "topk", "d_sae": 40, "k": 4} if name == "auxk" else {"name": "relu", "d_sae": 40}
    penalty = {"name": name, "weight": 0.5, **NEEDED.get(name, {})}
    assert findings(config(sae=sae, penalties=[penalty]), tmp_path) == []


@pytest.mark.parametrize("name", sorted(Transform.members))
def test_every_transform_passes(config: Make, tmp_path: Path, name: str) -> None:
    assert findings(config(transforms=[{"name": name}]), tmp_path) == []

"""A step that is not measured reads the value of no tensor: on CUDA that would wait for all queued operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from saepipe.data.config.component import import_members
from saepipe.train.config import TrainConfig
from saepipe.train.kernels import pattern
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae import encoding, screen, upper_bounds
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

pytestmark = pytest.mark.quick

Make = Callable[..., TrainConfig]

import_members(Penalty.package)
import_members(Architecture.package)

K: dict[str, dict[str, Any]] = {
    name: {"k": 5} for name in ("topk", "batch_topk", "matryoshka_batch_topk", "matching_pursuit")
}
REQUIRED: dict[str, dict[str, Any]] = {"l0_target": {"l0": 5.0}}
WAITING = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "unique",
    "repeat_interleave.Tensor",
)
"""Operations whose result, or its shape, the host must know before it can continue."""


class Waits(TorchDispatchMode):
    """Records every operation that would wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        by_mask = name.startswith("index") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool
            for argument in args
            if isinstance(argument, list | tuple)
            for index in argument
        )
        if by_mask or name.split(".")[0] in WAITING or name in WAITING:
            self.operations.append(name)
        return func(*args, **(kwargs or {}))


def waits_of_a_step(config: Make, **changes: Any) -> list[str]:
    """Returns the waits of the second step; the first does what is done only once."""
    resolved = config(steps=1000, **changes).resolved(hook="h", num_rows=1000, device=torch.device("cpu"))
    recipe = Recipe(resolved, 24, 1.0, torch.device("cpu"))
    state = fresh_state(recipe, initial_params(recipe))
    x = torch.randn(17, 24, generator=torch.Generator().manual_seed(0))
    train_step(recipe, state, x)
    with Waits() as waits:
        train_step(recipe, state, x)
    return waits.operations


@pytest.mark.parametrize("name", sorted(Architecture.members))
def test_a_dense_step_does_not_wait(config: Make, name: str) -> None:
    sae = {"name": name, "d_sae": 40, **K.get(name, {})}
    assert waits_of_a_step(config, sae=sae, penalties=[], sparse_steps="never") == []


@pytest.mark.parametrize("name", sorted(Penalty.members))
def test_a_penalty_does_not_wait(config: Make, name: str) -> None:
    penalty = {"name": name, "weight": 0.5, **REQUIRED.get(name, {})}
    assert waits_of_a_step(config, penalties=[penalty], sparse_steps="never") == []


@pytest.mark.parametrize(("name", "expected"), [("topk", []), ("batch_topk", []), ("relu", ["nonzero.default"])])
def test_a_sparse_step_waits_only_for_the_number_of_entries(
    config: Make, name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a device: only on a CPU, where nothing has to wait, there are candidates, and numpy finds the entries.
    monkeypatch.setattr(BatchTopK, "candidates", lambda *_: None)
    monkeypatch.setattr(pattern, "true_positions", lambda mask: mask.flatten().nonzero().squeeze(1))
    sae = {"name": name, "d_sae": 40, **K.get(name, {})}
    assert waits_of_a_step(config, sae=sae, penalties=[], sparse_steps="always", screen="never") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("topk", ["nonzero.default", "_local_scalar_dense.default"]), ("relu", ["nonzero.default", "nonzero.default"])],
)
def test_a_screened_step_waits_only_for_the_numbers_of_candidates_and_of_entries(
    config: Make, name: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on CUDA. A topk knows the number of its entries, but not the most candidates of a token."""
    monkeypatch.setattr(screen, "MOST_CANDIDATES", 1.0)
    for module in (encoding, screen, upper_bounds):
        monkeypatch.setattr(module, "free_to_read", lambda device: False)
    for module in (encoding, screen):
        monkeypatch.setattr(module, "true_positions", lambda mask: mask.flatten().nonzero().squeeze(1))
    sae = {"name": name, "d_sae": 40, **K.get(name, {})}
    assert waits_of_a_step(config, sae=sae, penalties=[], sparse_steps="always", screen="always") == expected


def test_waits_are_recorded(config: Make) -> None:
    x = torch.arange(6.0)
    with Waits() as waits:
        float(x[2])
        x[x > 2]
        x.nonzero()
    assert waits.operations == ["_local_scalar_dense.default", "index.Tensor", "nonzero.default"]

"""What a training needs in memory: the formula against what steps hold, and the errors for what cannot fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.data.errors import OutOfSpaceError, is_out_of_memory
from saepipe.data.ranks.launch import Ranks
from saepipe.train import memory_needs
from saepipe.train.config import TrainConfig
from saepipe.train.memory_needs import step_bytes
from saepipe.train.parallel.axis import Axis
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.penalties.l0_target import L0Target
from saepipe.train.penalties.lp import Lp
from saepipe.train.penalties.preact import PreAct
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.sae.relu import ReLU
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step
from tests.helpers.live_memory import peak_bytes

OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
K: dict[str, dict[str, Any]] = {
    "topk": {"k": 8},
    "batch_topk": {"k": 8},
    "matryoshka_batch_topk": {"k": 8},
    "jumprelu": {"bandwidth": 0.05},
    "matching_pursuit": {"k": 8},
}


def recipe_of(
    sae: str, penalties: list[str], d_in: int, d_sae: int, batch: int, sparse: str, screen: str = "never"
) -> Recipe:
    raw: dict[str, Any] = {"cache": "none", "hook": "none", "steps": 100, "batch_size": batch, "sparse_steps": sparse}
    raw["screen"] = screen
    raw["sae"] = {"name": sae, "d_sae": d_sae, **K.get(sae, {})}
    raw["penalties"] = [{"name": name, "weight": 0.1} for name in penalties]
    config = TrainConfig.parse(raw).resolved(hook="none", num_rows=batch, device=torch.device("cpu"))
    return Recipe(config, d_in, 1.0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("sae", "penalties", "sparse"),
    [
        *((sae, [], "never") for sae in ("relu", "topk", "jumprelu", "gated", "batch_topk", "matryoshka_batch_topk")),
        ("matching_pursuit", [], "never"),
        *(("relu", [name], "never") for name in ("preact", "rate_floor", "tanh", "log", "lp", "c2r", "ortsae")),
        ("topk", ["auxk"], "never"),
        *((sae, [], "always") for sae in ("topk", "batch_topk", "matryoshka_batch_topk")),
    ],
)
@pytest.mark.parametrize("shape", [(16, 4096, 2048), (512, 2048, 1024)])
def test_the_formula_is_what_a_step_holds(
    sae: str, penalties: list[str], sparse: str, shape: tuple[int, int, int]
) -> None:
    """Activations are most of it in one shape; gradients, too, in the other."""
    d_in, d_sae, batch = shape
    recipe = recipe_of(sae, penalties, d_in, d_sae, batch, sparse)
    state, x = fresh_state(recipe, initial_params(recipe)), torch.randn(batch, d_in)
    train_step(recipe, state, x)
    if "auxk" in penalties:
        state.step, state.tokens_since_fired[::8] = 50, 10**9
    assert peak_bytes(lambda: train_step(recipe, state, x)) == pytest.approx(step_bytes(recipe), rel=0.15)


RESIDENT = """
import sys
import torch
from pathlib import Path
from saepipe.train.step.allocator import keep_freed_memory
keep_freed_memory()
from saepipe.train.step.state import fresh_state, initial_params
from saepipe.train.step.step import train_step
from tests.train.test_memory_needs import recipe_of
def mebibytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
sae, sparse, screen, *shape = sys.argv[1:]
small = recipe_of(sae, [], 64, 512, 600, sparse, screen)
train_step(small, fresh_state(small, initial_params(small)), torch.randn(600, 64))
before = mebibytes("VmRSS")
recipe = recipe_of(sae, [], *map(int, shape), sparse, screen)
state = fresh_state(recipe, initial_params(recipe))
train_step(recipe, state, torch.randn(recipe.config.batch_size, recipe.d_in))
print(mebibytes("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("sae", "sparse", "screen", "shape"),
    [
        ("relu", "never", "never", (32, 16384, 2048)),
        ("topk", "always", "never", (512, 32768, 600)),
        ("topk", "always", "always", (512, 32768, 600)),
        ("topk", "never", "never", (256, 16384, 1024)),
    ],
)
def test_the_formula_is_what_the_system_counts(sae: str, sparse: str, screen: str, shape: tuple[int, int, int]) -> None:
    command = [sys.executable, "-c", RESIDENT, sae, sparse, screen, *map(str, shape)]
    measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 2**20
    d_in, d_sae, _ = shape
    needed = 3 * memory_needs.FLOAT * 2 * d_in * d_sae + step_bytes(recipe_of(sae, [], *shape, sparse, screen))
    assert measured == pytest.approx(needed, rel=0.15)


def test_a_training_that_cannot_fit_is_refused_before_it_begins(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_needs, "free_ram", lambda: 50_000.0)
    with pytest.raises(OutOfSpaceError, match=r"1 run needs about .* of memory: .*, but 50 kB are free") as raised:
        train(config(), tmp_path)
    assert str(raised.value.hint).startswith("batch_size: 8 halves the activations; a smaller d_sae")
    assert not list(tmp_path.rglob("metrics*"))


def test_memory_that_an_earlier_training_kept_counts_as_free(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [1e9]
    monkeypatch.setattr(memory_needs, "free_ram", lambda: 1e9 - kept[0])
    monkeypatch.setattr(memory_needs, "return_freed_memory", lambda: kept.__setitem__(0, 0))
    assert train(config(steps=2), tmp_path)


def test_a_steered_penalty_counts_with_what_it_steers() -> None:
    sae = ReLU(d_sae=8)
    steered = [L0Target(l0=2.0, penalty=penalty) for penalty in (Lp(weight=1.0), PreAct(weight=1.0))]
    assert [each.held_arrays() for each in steered] == [4, 2]
    assert [each.reads_pre_acts(sae) for each in steered] == ["active", "all"]


def test_ranks_of_a_machine_share_out_parameters_and_tokens_but_each_holds_rows(
    config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    split = Mesh(Ranks(0, 4, 0, 4), Axis(0, 2), Axis(0, 2), Axis(0, 4), None, 1.0)
    alone, over_ranks = (
        memory_needs.memory_needs(plan_runs(config(batch_size=64), tmp_path, mesh)) for mesh in (None, split)
    )
    assert over_ranks.rows == 4 * alone.rows
    assert alone.parameters < over_ranks.parameters / 2 < 1.1 * alone.parameters  # each row of ranks has all, and b_dec
    assert over_ranks.step < 4 * alone.step


@pytest.mark.parametrize("error", [RuntimeError(OUT_OF_MEMORY), MemoryError(), RuntimeError("can't start new thread")])
def test_a_training_says_what_it_needs_and_what_needs_less(
    config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def step(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("saepipe.train.stacked.teams.train_step", step)
    with pytest.raises(OutOfSpaceError, match=r"(?s)out of memory: .*2 runs need about .* batch of 17") as raised:
        train(config(variants=[{"name": "a"}, {"name": "b", "penalties.0.weight": 2.0}]), tmp_path)
    assert str(raised.value.hint).startswith("batch_size: 8 halves")
    assert raised.value.exit_code == 5


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ImportError("no module named x"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))

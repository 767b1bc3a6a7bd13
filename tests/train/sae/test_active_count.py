"""k that follows a schedule: its value in every step, on every path of a step, and in the SAE that is saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.killed_training import KillAfter, Killed
from helpers.steps_to_capture import NUM_STEPS, batches, fresh, recipe_of, tensors
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import read_manifest
from saepipe.train.captured import captured_run
from saepipe.train.captured.captured_run import CapturedRun
from saepipe.train.captured.runners import interpreted
from saepipe.train.config import TrainConfig
from saepipe.train.memory_needs import step_bytes
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.rundir.exporting import export_sae
from saepipe.train.rundir.load import load
from saepipe.train.sae.batch_topk import BatchTopK
from saepipe.train.sae.topk import TopK
from saepipe.train.stacked.stack import Stack
from saepipe.train.step import density as density_module
from saepipe.train.step.density import THRESHOLDS
from saepipe.train.step.step import step_loss, train_step

Make = Callable[..., TrainConfig]

FALLING = {"start": 10, "end": 4, "finish": 0.6}
KINDS = ["batch_topk", "matryoshka_batch_topk", "topk"]


def sae(name: str, k: Any = FALLING) -> dict[str, Any]:
    return {"name": name, "d_sae": 40, "k": k}


def expected_k(step: int, num_steps: int) -> float:
    """Computes the linear schedule from 10 at step 0 to 4 at the last step of the first 60 % of the run."""
    return 10 - 6 * min(1.0, step / (round(0.6 * num_steps) - 1))


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "sae" / "sae_weights.safetensors")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sparse_steps", ["always", "never"])
def test_every_step_has_the_bits_of_one_with_that_k(name: str, sparse_steps: str) -> None:
    """A topk's is rounded; a batch_topk's is not."""
    changes = {"sae": sae(name), "sparse_steps": sparse_steps}
    moving = recipe_of(changes)
    state, expected = fresh(moving), fresh(moving)
    for step, rows in enumerate(batches()):
        k = expected_k(step, NUM_STEPS)
        constant = recipe_of(changes | {"sae": sae(name, round(k) if name == "topk" else k)})
        l0 = float(step_loss(moving, state, moving.scaled(rows)).ctx.l0)
        assert l0 == pytest.approx(round(k) if name == "topk" else round(17 * k) / 17, abs=0.5)
        train_step(moving, state, rows)
        train_step(constant, expected, rows)
        assert all(torch.equal(value, tensors(expected)[key]) for key, value in tensors(state).items())
        assert state.sparse is expected.sparse is (sparse_steps == "always")


@pytest.mark.parametrize("name", KINDS)
def test_the_saved_sae_has_the_last_k(config: Make, tmp_path: Path, name: str) -> None:
    (run,) = train(config(sae=sae(name), penalties=[], log_every=1), tmp_path)
    l0 = [json.loads(line)["l0"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert l0[0] > 9 > 5 > l0[-1]
    saved = load(run)
    if name == "topk":
        assert saved.settings == TopK(d_sae=40, k=4)
    out = export_sae(run, "dictionary_learning", tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["trainer"]["k"] == 4


def test_a_killed_run_is_resumed_bit_for_bit(config: Make, tmp_path: Path) -> None:
    settings = config(sae=sae("batch_topk"), penalties=[])
    (whole,) = train(settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(settings, tmp_path / "parts", progress=KillAfter(8))
    (resumed,) = train(settings, tmp_path / "parts", resume="must")
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


@pytest.mark.parametrize("name", KINDS)
def test_stacked_runs_equal_exact_ones(config: Make, tmp_path: Path, name: str) -> None:
    changes: dict[str, Any] = {"sae": sae(name), "penalties": [], "seeds": [0, 1]}
    exact = train(config(**changes), tmp_path / "exact")
    together = train(config(**changes, exact=False), tmp_path / "together")
    for run, twin in zip(together, exact, strict=True):
        assert read_manifest(run)[0]["stacked"] == 2
        torch.testing.assert_close(weights(run), weights(twin), rtol=1e-3, atol=1e-5)


def test_steps_are_captured_once_k_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the bits of plain steps; a run and a stack say so once."""
    plain_steps, said = list[int](), list[str]()

    def counted(recipe: Any, state: Any, *arguments: Any) -> Any:
        plain_steps.append(state.step)
        return train_step(recipe, state, *arguments)

    monkeypatch.setattr(captured_run, "train_step", counted)
    recipe = recipe_of({"sae": sae("topk"), "dead": {"after_tokens": 10_000}})
    plain, state = fresh(recipe), fresh(recipe)
    run = CapturedRun(recipe, state, interpreted, said.append)
    for rows in batches():
        run.step(rows)
        train_step(recipe, plain, rows)
    assert all(torch.equal(value, tensors(plain)[key]) for key, value in tensors(state).items())
    rests = next(step for step in range(NUM_STEPS) if round(expected_k(step, NUM_STEPS)) == 4)
    assert plain_steps == list(range(rests + 1))  # and the first one of the kind that is captured
    assert said == ["steps are captured once the schedule of the architecture has ended; until then they are plain"]
    stack = Stack([(recipe, fresh(recipe)), (recipe, fresh(recipe))])
    for rows in batches():
        stack.step(recipe.scaled(rows))
    torch.testing.assert_close(stack.params["W_dec"][1], plain.params["W_dec"].detach(), rtol=1e-3, atol=1e-5)


def test_steps_become_sparse_when_k_is_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a share of the 40 latents; the memory that is asked for is that of the dense steps."""
    always = {key: replace(thresholds, least_work=0) for key, thresholds in THRESHOLDS.items()}
    monkeypatch.setattr(density_module, "THRESHOLDS", always)
    falling, small, large = (
        recipe_of({"sae": sae("batch_topk", k), "sparse_steps": "auto"}) for k in ({"start": 4, "end": 1}, 1, 4)
    )
    state, paths = fresh(falling), list[bool]()
    for step, rows in enumerate(batches()):
        train_step(falling, state, rows)
        paths.append(state.sparse)
        assert state.sparse is (4 - 3 * step / (NUM_STEPS - 1) <= 40 * THRESHOLDS["cpu", "float32"].sparse_below)
    assert paths == sorted(paths)
    assert step_bytes(falling) == step_bytes(large) > step_bytes(small)


@pytest.mark.parametrize(
    ("name", "k", "words"),
    [
        ("topk", {"start": 41, "end": 4}, "k = 41 is more than d_sae = 40"),
        ("topk", {"start": 4, "end": 0.4}, "k = 0.4 is less than 1"),
        ("batch_topk", {"start": 4, "end": 0}, "k = 0 is not above 0"),
        ("matryoshka_batch_topk", {"start": 4, "end": 80}, "k = 80 is more than d_sae = 40"),
        ("topk", {"steer": "l0", "to": 4, "start": 8}, "unknown key"),
        (
            "topk",
            {"start": 8, "end": 4, "steps": 90},
            "the schedule of sae.k ends at step 90, but the run has 20 steps",
        ),
    ],
)
def test_schedules_that_cannot_be(config: Make, tmp_path: Path, name: str, k: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan_runs(config(sae=sae(name, k), penalties=[]), tmp_path)


def test_an_architecture_whose_k_moves_encodes_only_at_a_step() -> None:
    moving = BatchTopK.parse(sae("batch_topk"))
    assert (moving.num_active, moving.at(0, 10).num_active, moving.ended().num_active) == (4, 10, 4)
    assert TopK.parse(sae("topk", {"start": 8, "end": 5})).at(1, 4).k == 7
    with pytest.raises(AssertionError, match="take the architecture `at` a step"):
        moving.activate_training({}, torch.randn(3, 40))
    constant = TopK(d_sae=40, k=4)
    assert constant.at(3, 10) is constant is constant.ended()

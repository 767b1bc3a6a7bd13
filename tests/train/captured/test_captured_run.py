"""A run whose steps come from traces has every bit of one whose steps are plain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.killed_training import KillAfter, Killed
from helpers.steps_to_capture import (
    BATCH,
    CASES,
    FALLING,
    NUM_STEPS,
    ROUNDED,
    batches,
    fresh,
    recipe_of,
    tensors,
    with_penalty,
)
from saepipe.train.captured import captured_run, entry_room, runners
from saepipe.train.captured.captured_run import CapturedRun
from saepipe.train.captured.entry_room import EntryRoom
from saepipe.train.captured.runners import interpreted
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.l1 import L1
from saepipe.train.run import train
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import TrainState
from saepipe.train.step.step import train_step

Make = Callable[..., TrainConfig]
LINE_EVERY = 9


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the steps that captured runs make plainly."""
    numbers: list[int] = []

    def counted(recipe: Any, state: TrainState, *arguments: Any) -> Any:
        numbers.append(state.step)
        return train_step(recipe, state, *arguments)

    monkeypatch.setattr(captured_run, "train_step", counted)
    return numbers


def due_at(step: int) -> Due:
    return Due.LINE | Due.GRADIENTS if step % LINE_EVERY == LINE_EVERY - 1 else Due.NOTHING


def trained(changes: dict[str, Any]) -> tuple[TrainState, TrainState, list[str]]:
    """Returns the states after plain and after captured steps, and what was said of steps that cannot be captured."""
    recipe, said = recipe_of(changes), list[str]()
    plain, state = fresh(recipe), fresh(recipe)
    run = CapturedRun(recipe, state, interpreted, said.append)
    for step, rows in enumerate(batches()):
        assert run.step(rows, due_at(step)) == train_step(recipe, plain, rows, due_at(step))
    return plain, state, said


def assert_same(state: TrainState, expected: TrainState) -> None:
    assert (state.step, state.num_summed) == (expected.step, expected.num_summed)
    values, wanted = tensors(state), tensors(expected)
    assert values.keys() == wanted.keys()
    assert [name for name, value in values.items() if not torch.equal(value, wanted[name])] == []


@pytest.mark.parametrize("name", CASES)
def test_every_bit_is_that_of_plain_steps(plain_steps: list[int], name: str) -> None:
    plain, state, said = trained(CASES[name])
    assert said == []
    assert_same(state, plain)
    measured = NUM_STEPS // LINE_EVERY
    assert measured < len(plain_steps) <= measured + 5  # and the first step of each kind


def test_powers_of_entries_differ_by_rounding_from_those_of_plain_steps() -> None:
    plain, state, said = trained(ROUNDED)
    assert said == []
    torch.testing.assert_close(tensors(state), tensors(plain), rtol=1e-5, atol=1e-7)


def sparse_relu(monkeypatch: pytest.MonkeyPatch, biases: Sequence[float]) -> tuple[list[str], list[tuple[int, int]]]:
    """Captures sparse steps whose b_enc is set before each, by which the number of entries moves.

    Returns what was said, and the room of each step that counted its entries; the steps have every bit of plain ones.
    """
    monkeypatch.setattr(entry_room, "MULTIPLE", 1)
    recipe, said, rooms = recipe_of(CASES["sparse relu"]), list[str](), list[tuple[int, int]]()
    fitting = EntryRoom.fitting
    monkeypatch.setattr(EntryRoom, "fitting", lambda *args: rooms.append(fitting(*args)) or rooms[-1])
    plain, state = fresh(recipe), fresh(recipe)
    run = CapturedRun(recipe, state, interpreted, said.append)
    for bias, rows in zip(biases, batches(), strict=False):
        for each in (plain, state):
            each.params["b_enc"].detach().fill_(bias)
        run.step(rows)
        train_step(recipe, plain, rows)
        assert_same(state, plain)
    return said, rooms


def test_a_step_with_more_entries_than_there_is_room_for_is_plain(
    plain_steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    said, rooms = sparse_relu(monkeypatch, [-0.2] * 6 + [0.0] * 4 + [-0.2] * 2)
    assert len(said) == 1
    assert "more than the" in said[0]
    assert "(overflow 1)" in said[0]
    assert plain_steps == [0, 1, 6]  # two kinds of traces, and the step with the overflow
    assert len(set(rooms)) == 2


def test_room_shrinks_with_the_entries(plain_steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    said, rooms = sparse_relu(monkeypatch, [0.0] * 6 + [-1.5] * 4)
    assert said == []
    assert rooms[-1][0] < rooms[0][0] / 2
    assert plain_steps == [0, 1, 6]


def test_entries_of_steps_that_cannot_be_captured_are_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    counted, fitting = list[int](), EntryRoom.fitting
    monkeypatch.setattr(EntryRoom, "fitting", lambda *args: counted.append(1) or fitting(*args))
    plain, state, said = trained({**CASES["sparse relu"], "transforms": [{"name": "latent_dropout"}]})
    assert_same(state, plain)
    assert len(said) == len(set(said)) <= 2  # with and without dead latents
    assert len(counted) <= 4


@pytest.mark.parametrize(
    ("transform", "reason"), [("latent_dropout", "used as text"), ("batch_gate", "asks for the value of a tensor")]
)
def test_a_step_that_needs_the_host_is_plain(plain_steps: list[int], transform: str, reason: str) -> None:
    plain, state, said = trained({**with_penalty("l1"), "transforms": [{"name": transform}]})
    assert_same(state, plain)
    assert len(said) == 1
    assert reason in said[0]
    assert plain_steps == list(range(NUM_STEPS))


def test_a_penalty_that_computes_with_the_steps_number_is_never_frozen(
    plain_steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    unchanged = L1.__call__

    def by_step(self: L1, ctx: Any, state: Any, now: Any) -> Any:
        answer = unchanged(self, ctx, state, now)
        return type(answer)(answer.value * ctx.step, answer.statistics, answer.state)

    monkeypatch.setattr(L1, "__call__", by_step)
    plain, state, said = trained(with_penalty("l1"))
    assert_same(state, plain)
    assert len(said) == 1
    assert len(plain_steps) == NUM_STEPS


def test_steps_that_resample_are_plain(plain_steps: list[int]) -> None:
    dead = {"after_tokens": BATCH, "resample_steps": 10}
    plain, state, _ = trained({**with_penalty("l1", weight=3.0), "dead": dead})
    assert_same(state, plain)
    assert 10 in plain_steps
    assert len(plain_steps) < NUM_STEPS / 2


def test_a_batch_of_another_shape_is_plain() -> None:
    recipe = recipe_of(with_penalty("l1"))
    plain, state = fresh(recipe), fresh(recipe)
    run = CapturedRun(recipe, state, interpreted)
    for rows in [*batches()[:4], batches()[4][:5], *batches()[5:8].bfloat16(), batches()[9]]:
        run.step(rows)
        train_step(recipe, plain, rows)
    assert_same(state, plain)


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "sae" / "sae_weights.safetensors")


@pytest.mark.parametrize("sparse_steps", ["auto", "always"])
def test_a_killed_run_with_captured_steps_is_resumed_bit_for_bit(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_steps: list[int], sparse_steps: str
) -> None:
    """The shapes are too small for `auto` to choose sparse steps; the room of `always` is in no checkpoint."""
    monkeypatch.setitem(runners.RUNNERS, "inductor", interpreted)
    penalties = [{"name": "l1", "weight": FALLING}, {"name": "ortsae", "weight": 0.1}]
    settings = {"penalties": penalties, "sparse_steps": sparse_steps, "screen": "never"}
    (expected,) = train(config(**settings), tmp_path / "plain")
    captured = config(**settings, compile="inductor")
    with pytest.raises(Killed):
        train(captured, tmp_path / "captured", progress=KillAfter(14))
    (run,) = train(captured, tmp_path / "captured", resume="must")
    assert run.name == expected.name
    assert len(plain_steps) < 24  # of 14 and 10 more: measured ones, and the first of each kind
    torch.testing.assert_close(weights(run), weights(expected), rtol=0, atol=0)

"""A CUDA graph replays a trace. It needs a GPU; without one only what it refuses can be tested."""

from __future__ import annotations

import pytest
import torch

from helpers.steps_to_capture import CASES, batches, fresh, recipe_of, tensors
from saepipe.data.errors import ConfigError
from saepipe.train.captured.captured_run import CapturedRun
from saepipe.train.captured.runners import CudaGraph, runner_of
from saepipe.train.step.step import train_step

pytestmark = pytest.mark.cuda
GRAPHS = [
    "topk",
    "moving weights",
    "a steered weight",
    "penalties of pairs",
    "sparse topk",
    "sparse relu",
    "sparse jumprelu",
]


def test_cuda_graphs_need_cuda() -> None:
    with pytest.raises(ConfigError, match="cudagraphs needs a CUDA device, and this run's is cpu"):
        recipe_of({**CASES["relu"], "compile": "cudagraphs"})


def test_a_run_is_captured_only_if_it_says_so() -> None:
    assert runner_of(recipe_of(CASES["relu"])) is None
    assert runner_of(recipe_of({**CASES["relu"], "compile": "cudagraphs"}, torch.device("cuda"))) is CudaGraph


@pytest.mark.skipif(not torch.cuda.is_available(), reason="captures CUDA graphs")
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_make_the_steps_of_plain_launches(name: str) -> None:
    device = torch.device("cuda")
    recipe = recipe_of({**CASES[name], "compute_dtype": "float32"}, device)
    plain, state, said = fresh(recipe), fresh(recipe), list[str]()
    run = CapturedRun(recipe, state, CudaGraph, said.append)
    for rows in batches().to(device):
        run.step(rows)
        train_step(recipe, plain, rows)
    assert said == []
    for own, expected in zip(tensors(state).values(), tensors(plain).values(), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)

"""A compiled step is the plain one up to rounding."""

from __future__ import annotations

import pytest
import torch

from helpers.steps_to_capture import batches, fresh, recipe_of, tensors, with_penalty
from saepipe.data.errors import MachineError
from saepipe.train.captured.captured_run import CapturedRun
from saepipe.train.captured.inductor import adam_written_out, inductor
from saepipe.train.captured.trace import trace
from saepipe.train.config_sections import OptimizerConfig
from saepipe.train.step.optim import adam_step, initial_moments
from saepipe.train.step.step import train_step


def test_compiled_steps_are_plain_ones_up_to_rounding() -> None:
    recipe = recipe_of(with_penalty("l1", warmup=0.2))
    plain, state = fresh(recipe), fresh(recipe)
    run = CapturedRun(recipe, state, inductor)
    for rows in batches()[:8]:
        run.step(rows)
        train_step(recipe, plain, rows)
    expected = tensors(plain)
    for name, value in tensors(state).items():
        distance = torch.linalg.vector_norm(value.double() - expected[name].double())
        assert distance <= 1e-5 * torch.linalg.vector_norm(expected[name].double()), name


@pytest.mark.parametrize("divisor", [None, 2.0])
def test_adam_written_out_is_torchs(divisor: float | None) -> None:
    rng = torch.Generator().manual_seed(0)
    runs = [{"W": torch.ones(5, 3), "b": torch.zeros(3)} for _ in range(2)]
    fused, written = [initial_moments(run) for run in runs]
    scale, config = None if divisor is None else torch.tensor(divisor), OptimizerConfig()
    for _ in range(4):
        gradients = {name: torch.randn(value.shape, generator=rng) for name, value in runs[0].items()}
        copies = {name: value.clone() for name, value in gradients.items()}
        adam_step(runs[0], gradients, fused, 1e-2, config, scale)
        own = [[written[name][key] for name in copies] for key in ("exp_avg", "exp_avg_sq", "step")]
        for step in own[2]:
            step.add_(1)
        beta1, beta2 = config.betas
        adam_written_out(
            list(runs[1].values()), list(copies.values()), own[0], own[1], [], own[2],
            lr=torch.tensor(1e-2), beta1=beta1, beta2=beta2, eps=config.eps, grad_scale=scale,
        )  # fmt: skip
    for name, value in runs[0].items():
        torch.testing.assert_close(runs[1][name], value)
        torch.testing.assert_close(written[name], fused[name])


def test_code_that_cannot_be_compiled_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    torch.compiler.reset()
    x = torch.ones(7)
    replay = inductor(trace(lambda tensors: tensors[0].mul_(3).sin_(), (x,)), [x])
    with pytest.raises(MachineError, match="torch.compile cannot compile a step"):
        replay()
    assert x.tolist() == [1] * 7

"""What a run tells while it trains: a line of `metrics.jsonl` every `log_every` steps."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saepipe.train.loss import Loss
from saepipe.train.optim import remove_parallel
from saepipe.train.sae.base import Params
from saepipe.train.schedule import learning_rate
from saepipe.train.state import Recipe, TrainState


@dataclass(frozen=True)
class Measurement:
    """One step looked at closely."""

    gradient_norms: dict[str, float]  # of each weighted term, over all parameters, W_dec's parallel part removed
    gradient_norm: float  # of the whole loss, likewise, before clipping
    statistics: dict[str, float]
    l0: float  # active latents a token, mean over the batch
    fvu: float  # |x - x_hat|^2 over |x - batch mean|^2, both summed over the batch
    dead: int
    lr: float
    sparse: bool


def measure(recipe: Recipe, state: TrainState, loss: Loss) -> Measurement:
    """Of a step whose update has not been made; the graph of `loss` is kept for it."""
    config, ctx = recipe.config, loss.ctx
    gradients = {name: projected_gradient(term.weighted, state.params) for name, term in loss.terms.items()}
    whole = [sum(parts) for parts in zip(*gradients.values(), strict=True)]
    error = (ctx.x - ctx.x_hat).detach().square().sum()
    variance = (ctx.x - ctx.x.mean(0)).square().sum()
    return Measurement(
        gradient_norms={name: _norm(gradient) for name, gradient in gradients.items()},
        gradient_norm=_norm(whole),
        statistics={name: float(value) for name, value in loss.statistics.items()},
        l0=float(ctx.l0),
        fvu=float(error / variance),
        dead=int(ctx.dead.sum()),
        lr=learning_rate(config.optimizer, config.dead, state.step, recipe.num_steps),
        sparse=state.sparse,
    )


def projected_gradient(term: Tensor, params: Params) -> list[Tensor]:
    """What the optimiser would see if `term` () were the whole loss, one tensor a parameter; zeros for a constant."""
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    if not term.requires_grad:
        return list(zeros.values())
    found = torch.autograd.grad(term, list(params.values()), retain_graph=True, allow_unused=True)
    gradients = {name: zeros[name] if g is None else g for name, g in zip(params, found, strict=True)}
    remove_parallel(gradients, params["W_dec"])
    return list(gradients.values())


def _norm(gradient: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(gradient))


class MetricsLog:
    """`metrics.jsonl` of one run, appended to. Times in it are of the process, all of its variants together."""

    def __init__(self, path: Path, step: int) -> None:
        """Keeps the lines up to `step` (a checkpoint's) of what may be there; a torn last line is dropped."""
        written = path.read_text().split("\n")[:-1] if path.exists() else []
        self.lines: list[dict[str, Any]] = [line for line in map(json.loads, written) if line["step"] <= step]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in self.lines))
        self._path = path
        self._since = (time.monotonic(), step)

    def write(self, recipe: Recipe, state: TrainState, names: list[str], measured: Measurement) -> dict[str, Any]:
        """Appends a line about the step just done, and the terms' means since the last line; resets their sums."""
        now, (then, step) = time.monotonic(), self._since
        batch = recipe.config.batch_size
        means = dict(zip(names, (state.sums / state.num_summed).tolist(), strict=True))
        whole = sum(measured.gradient_norms.values())
        line = {
            "step": state.step,
            "tokens": state.step * batch,
            "loss": sum(weighted for _, weighted in means.values()),
            "terms": {
                name: {
                    "value": value,
                    "weighted": weighted,
                    "gradient_norm": measured.gradient_norms[name],
                    "gradient_share": measured.gradient_norms[name] / whole if whole else 0.0,
                }
                for name, (value, weighted) in means.items()
            },
            "gradient_norm": measured.gradient_norm,
            "statistics": measured.statistics,
            "l0": measured.l0,
            "fvu": measured.fvu,
            "dead": measured.dead,
            "lr": measured.lr,
            "sparse": measured.sparse,
            "tokens_per_second": (state.step - step) * batch / max(now - then, 1e-9),
        }
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines.append(line)
        state.sums.zero_()
        state.num_summed = 0
        self._since = (now, state.step)
        return line

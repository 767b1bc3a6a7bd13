"""One run over ranks beside the same run in one process: every architecture, penalty and transform, on gloo.

python bench/parallel.py                # 2 and 4 ranks, 200 steps: some minutes
torchrun --nproc-per-node 2 bench/parallel.py --latents 2 --steps 10 --out FILE

Each case starts both from the same parameters on the same rows, and compares the loss of each step, the figures of a
log line, and the parameters at the end. Rows and latents do not divide evenly. `control` is the difference in loss of a
run in one process whose W_enc starts off by about one rounding: how far rounding alone leads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.config_sections import ParallelConfig
from saepipe.train.parallel.mesh import Mesh, open_mesh
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.rundir.whole_state import whole_state
from saepipe.train.seeds import generator
from saepipe.train.setting import SettingsNow
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, Target, TrainState, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = "A run over ranks takes the steps that it would in one process, up to the rounding of float32 sums"
LAYOUTS = ((2, 1), (4, 1), (1, 2), (2, 2))
D_IN, D_OUT, D_SAE, BATCH, K = 16, 13, 45, 35, 5
MEASURED_EVERY = 5
ROUNDING = 2.0**-24

SAES: dict[str, Any] = {
    "relu": {"penalties": [{"name": "l1", "weight": 0.3}]},
    "topk": {"sae": {"name": "topk", "k": K}, "penalties": [{"name": "auxk", "k_aux": 4}]},
    "batch_topk": {"sae": {"name": "batch_topk", "k": 4.5}, "penalties": [{"name": "auxk"}]},
    "jumprelu": {"sae": {"name": "jumprelu"}, "penalties": [{"name": "l0", "weight": 0.3}]},
    "gated": {"sae": {"name": "gated"}, "penalties": [{"name": "l1", "weight": 0.3}]},
    "matryoshka_batch_topk": {"sae": {"name": "matryoshka_batch_topk", "k": K, "groups": [3, 0.3, 0.6]}},
    "topk, more than a rank has": {"sae": {"name": "topk", "k": 20}},
    "topk, a schedule": {"sae": {"name": "topk", "k": {"start": 20, "end": 3, "finish": 0.5}}},
}
PAIRS: dict[str, Any] = {
    name: {"penalties": [{"name": "l1", "weight": 0.1}, {"weight": 1.0, **settings}]}
    for name, settings in {
        "absorption": {
            "name": "absorption",
            "refresh_every": 4,
            "min_firings": 1,
            "window": 500,
            "min_expected_joint": 0,
        },
        "absorption, lift": {"name": "absorption", "ratio": "lift", "rho": 0.5, "min_firings": 1, "window": 500},
        "balance": {"name": "balance", "refresh_every": 4, "min_firings": 1, "window": 500, "min_expected_joint": 0},
        "c2r": {"name": "c2r", "chunk": 20},
        "orthogonality": {"name": "orthogonality"},
        "orthogonality, hinge": {"name": "orthogonality", "form": "hinge", "refresh_every": 4},
        "ortsae": {"name": "ortsae", "chunk": 20},
        "random_pairs": {"name": "random_pairs"},
        "topk_orthogonality": {"name": "topk_orthogonality", "refresh_every": 4},
        "topk_orthogonality, both": {"name": "topk_orthogonality", "select": "both", "statistics_tokens": 20},
    }.items()
}
OTHERS: dict[str, Any] = {
    name: {"penalties": [settings]}
    for name, settings in {
        "l0": {"name": "l0", "weight": 0.3},
        "l0_target": {"name": "l0_target", "l0": 6.0, "gain": 0.1},
        "l0_target of log": {"name": "l0_target", "l0": 6.0, "penalty": {"name": "log", "weight": 0.1}},
        "log": {"name": "log", "weight": 0.1},
        "lp": {"name": "lp", "weight": 0.1},
        "preact": {"name": "preact", "weight": 0.01},
        "rate_floor": {"name": "rate_floor", "weight": 1.0, "p_min": 0.05},
        "rate_floor, entropy": {"name": "rate_floor", "weight": 1.0, "form": "entropy"},
        "tanh": {"name": "tanh", "weight": 0.1},
    }.items()
} | {
    "l0, target": {"sae": {"name": "jumprelu"}, "penalties": [{"name": "l0", "weight": 0.1, "target": 5.0}]},
    "l1, steered": {"penalties": [{"name": "l1", "weight": {"steer": "l0", "to": 6.0, "start": 0.1}}]},
    "inhibition": {"transforms": [{"name": "inhibition", "refresh_every": 4}]},
    "latent_dropout": {"transforms": [{"name": "latent_dropout", "drop": "overdue"}]},
    "batch_gate": {"transforms": [{"name": "batch_gate"}]},
    "transcoder": {"target": "y", "skip": True, "penalties": [{"name": "l1", "weight": 0.3}]},
    "crosscoder": {"hooks": ["a", "b"], "penalties": [{"name": "l1", "weight": 0.2}]},
    "frozen decoder": {"freeze": "decoder", "penalties": [{"name": "l1", "weight": 0.3}]},
    "soft decoder": {"freeze": "soft_decoder", "penalties": [{"name": "l1", "weight": 0.3}]},
    "norm": {"reconstruction": "norm", "penalties": [{"name": "l1", "weight": 0.05}]},
}
CASES: dict[str, Any] = SAES | PAIRS | OTHERS


class Unaware(Penalty):
    """A penalty that reads everything of a step, and knows nothing of ranks."""

    name: Literal["unaware"] = "unaware"

    def init_state(self, d_in: int, d_sae: int) -> State:
        return {"seen": torch.zeros(d_sae, d_sae)}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        together = ctx.acts.T @ ctx.acts / len(ctx.x)
        seen = state["seen"].lerp(together.detach(), 0.1)
        pairs = ((together + seen) * (ctx.W_dec @ ctx.W_dec.T)).square().mean()
        encoder = (ctx.W_enc.T @ ctx.W_enc).square().mean() + (ctx.b_enc * ctx.pre_acts.std(0)).square().sum()
        order = ctx.acts.flatten().topk(7).values.std() + ctx.gate_acts.amax(1).std() + ctx.acts_sum.std()
        error = (ctx.x_hat - ctx.target - ctx.b_dec).square().sum(0).std()
        return Penalised(0.01 * (pairs + encoder + order + error), {}, {"seen": seen})


CASES["a penalty that knows of no ranks"] = {"penalties": [{"name": "unaware", "weight": 1.0}]}


def recipe_of(case: Mapping[str, Any], steps: int) -> Recipe:
    """Returns the recipe of a case in one process."""
    sae = {"name": "relu", "d_sae": D_SAE, **case.get("sae", {})}
    dead = {"after_tokens": 2 * BATCH}
    raw = {"cache": "none", "steps": steps, "batch_size": BATCH, "device": "cpu", "dead": dead, **case, "sae": sae}
    raw["optimizer"] = {"lr": 1e-3}
    config, device = TrainConfig.parse(raw), torch.device("cpu")
    resolved = config.resolved(hook=None if config.hooks else "x", num_rows=10**6, device=device)
    if config.hooks:
        return Recipe(resolved, D_IN, 1.0, device, widths=(D_IN - 7, 7), scales=(1.0, 0.7))
    return Recipe(resolved, D_IN, 0.9, device, Target(D_OUT, 1.1) if config.target else None)


def rows_at(step: int, recipe: Recipe) -> Tensor:
    """Returns sparse combinations of fixed directions, (BATCH, width)."""
    width = D_IN + (D_OUT if recipe.target else 0)
    directions = torch.randn(60, width, generator=generator(0, "directions"))
    rng = generator(0, "rows", step)
    strengths = torch.rand(BATCH, 60, generator=rng) * (torch.rand(BATCH, 60, generator=rng) < 0.08)
    return strengths @ directions + 0.1 * torch.randn(BATCH, width, generator=rng)


def trajectory(recipe: Recipe, steps: int, nudge: float = 0.0) -> tuple[dict[str, list[float]], TrainState]:
    """Trains; returns the loss of each step, and what is measured of some."""
    params = initial_params(recipe)
    noise = torch.randn(params["W_enc"].shape, generator=generator(0, "nudge"))
    state = fresh_state(recipe, {**params, "W_enc": params["W_enc"] * (1 + nudge * noise)})
    lists: dict[str, list[float]] = {"loss": []}
    for step in range(steps):
        before, measured = state.sums[:, 1].sum().item(), step % MEASURED_EVERY == 0
        figures = train_step(
            recipe, state, rows_at(step, recipe), Due.GRADIENTS | Due.LINE if measured else Due.NOTHING
        )
        lists["loss"].append(state.sums[:, 1].sum().item() - before)
        if figures and state.sampled:
            own = {"l0": figures.l0, "fvu": figures.fvu, "dead": figures.dead, "norm": state.sampled.total_norm}
            for name, value in {**own, **state.sampled.norms, **state.sampled.statistics}.items():
                lists.setdefault(name, []).append(value)
    return lists, state


def compare(case: Mapping[str, Any], steps: int, mesh: Mesh) -> dict[str, Any] | None:
    """Returns the largest relative differences of a case; None on every rank but the first."""
    recipe = recipe_of(case, steps)
    ours, part = trajectory(replace(recipe, mesh=mesh), steps)
    state = whole_state(replace(recipe, mesh=mesh), part)
    if state is None:
        return None
    theirs, alone = trajectory(recipe, steps)
    differences = {name: largest(ours[name], theirs[name]) for name in theirs}
    worst = max(differences, key=lambda name: differences[name] * (name != "loss"))
    params = max(largest_of(state.all_params[name], value) for name, value in alone.all_params.items())
    control = largest(trajectory(recipe, steps, ROUNDING)[0]["loss"], theirs["loss"])
    return {
        "loss": differences["loss"],
        "control": control,
        "figures": differences[worst],
        "worst figure": worst,
        "parameters": params,
    }


def largest(ours: list[float], theirs: list[float]) -> float:
    """Returns the largest difference, relative to the largest value."""
    return largest_of(torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64))


def largest_of(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    assert ours.shape == theirs.shape, "the whole has another shape"
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-3))


def work(options: argparse.Namespace) -> None:
    """Compares the cases on the ranks of this command."""
    with open_mesh(ParallelConfig(latents=options.latents, data=options.data, timeout=120), "cpu") as mesh:
        assert mesh is not None
        for name, case in CASES.items():
            if options.case in ("all", name):
                figures = compare(case, options.steps, mesh)
                if figures:
                    with options.out.open("a") as file:
                        file.write(json.dumps({"case": name, **figures}) + "\n")


def launch(latents: int, data: int, steps: int) -> list[dict[str, Any]]:
    """Runs the cases on as many ranks as a layout needs."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "cases.jsonl"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        own = [__file__, "--latents", str(latents), "--data", str(data), "--steps", str(steps), "--out", str(out)]
        subprocess.run([*launcher, str(latents * data), *own], check=True)
        return [json.loads(line) for line in out.read_text().splitlines()]


def main() -> None:
    from record import write_result

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=1)
    parser.add_argument("--data", type=int, default=1)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--case", default="all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.out:
        work(options)
        return
    start, layouts = time.monotonic(), {}
    for latents, data in LAYOUTS:
        layouts[f"latents {latents}, data {data}"] = launch(latents, data, options.steps)
    figures = {"steps": options.steps, "layouts": layouts, "seconds": round(time.monotonic() - start)}
    print(write_result("parallel", CLAIM, figures))


if __name__ == "__main__":
    main()

"""The cost of a step of each pair penalty relative to a training step, in time, operations and memory.

    python bench/penalties.py [--sizes 4096 16384 32768] [--d-in 2304] [--batch 4096] [--steps 3] [--only NAME...]

The step is `train_step` of a ReLU SAE with L1. A penalty's step computes its value and the gradient of the value, with
64 active latents per token. Searches for pairs are measured separately, and their cost is spread over the steps between
two searches. Operations are those of dense matrix products, counted as they run, and those of the products of selected
pairs, by formula. Each size runs in a separate process. `--only` measures some penalties and keeps all other figures.
Writes results/penalties.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, write_result
from torch.utils.flop_counter import FlopCounterMode

from saepipe.train.config import TrainConfig
from saepipe.train.pairs.selection import default_interval
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.schedule import settings_at
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = "At d_sae 16,384 and batch 4,096 a pair penalty costs at most 10 % of a step"
NUM_ACTIVE = 64
OBSERVED = ("absorption", "balance")
"""Penalties that keep running means of each candidate pair."""
PENALTIES: dict[str, dict[str, Any]] = {
    "absorption": {"name": "absorption"},
    "balance": {"name": "balance"},
    "topk_orthogonality, cosine": {"name": "topk_orthogonality", "select": "cosine"},
    "topk_orthogonality, coactivation": {"name": "topk_orthogonality", "select": "coactivation"},
    "orthogonality, hinge": {"name": "orthogonality", "form": "hinge"},
    "orthogonality, all_pairs": {"name": "orthogonality"},
    "ortsae": {"name": "ortsae"},
    "c2r": {"name": "c2r"},
    "random_pairs": {"name": "random_pairs"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384, 32768])
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=3, help="timed steps (the median counts)")
    parser.add_argument("--only", nargs="+", choices=PENALTIES, default=list(PENALTIES), help="penalties to measure")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.d_in, args.one, args.batch, args.steps, args.only)))
        return
    by_size = kept_figures()
    for d_sae in args.sizes:
        shape = ["--d-in", args.d_in, "--batch", args.batch, "--steps", args.steps, "--one", d_sae]
        command = [sys.executable, __file__, *map(str, shape), "--only", *args.only]
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured, kept = json.loads(process.stdout), by_size.get(str(d_sae), {}).get("penalties", {})
        by_size[str(d_sae)] = measured | {"penalties": kept | measured["penalties"]}
        print_costs(d_sae, by_size[str(d_sae)])
    settings = {"d_in": args.d_in, "batch": args.batch, "num_active": NUM_ACTIVE, "threads": torch.get_num_threads()}
    write_result("penalties", CLAIM, {"settings": settings, "by d_sae": by_size})


def kept_figures() -> dict[str, Any]:
    """Returns the figures of an earlier call, by d_sae."""
    path = RESULTS / "penalties.json"
    return json.loads(path.read_text())["by d_sae"] if path.is_file() else {}


def print_costs(d_sae: int, costs: dict[str, Any]) -> None:
    step = costs["step"]
    print(
        f"d_sae {d_sae:,}: a step takes {step['seconds']:.2f} s, {step['tflop']:.2f} TFLOP, {step['extra_mib']:,} MiB"
    )
    for name, line in costs["penalties"].items():
        share = f"{line['share_of_time']:6.1%} of its time   {line['share_of_flop']:6.1%} of its operations"
        print(f"  {name:34} {share}   {line['extra_mib']:6,} MiB", flush=True)


def measure(d_in: int, d_sae: int, batch: int, num_steps: int, names: list[str]) -> dict[str, Any]:
    """Measures the step, then each penalty, at one size."""
    torch.manual_seed(0)
    step = measure_step(d_in, d_sae, batch, num_steps)
    ctx = random_context(d_in, d_sae, batch)
    return {"step": step, "penalties": {name: measure_penalty(name, ctx, step, num_steps) for name in names}}


def measure_step(d_in: int, d_sae: int, batch: int, num_steps: int) -> dict[str, Any]:
    raw = {"sae": {"name": "relu", "d_sae": d_sae}, "penalties": [{"name": "l1", "weight": 0.1}], "steps": 10_000}
    raw |= {"cache": "none", "batch_size": batch, "optimizer": {"warmup": 0}}
    cpu = torch.device("cpu")
    recipe = Recipe(TrainConfig.parse(raw).resolved(hook="none", num_rows=batch, device=cpu), d_in, 1.0, cpu)
    state = fresh_state(recipe, initial_params(recipe))
    x = torch.randn(batch, d_in)
    seconds, _, extra = timed(lambda: train_step(recipe, state, x), num_steps)
    return {"seconds": seconds, "tflop": 12 * batch * d_in * d_sae / 1e12, "extra_mib": extra}


def random_context(d_in: int, d_sae: int, batch: int) -> StepContext:
    x = torch.randn(batch, d_in)
    active = torch.rand(batch, d_sae).topk(NUM_ACTIVE).indices
    acts = torch.zeros(batch, d_sae).scatter_(1, active, torch.rand(batch, NUM_ACTIVE)).requires_grad_()
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=1).requires_grad_()
    return StepContext(
        x=x,
        target=x,
        latent_acts=DenseActs(pre_acts=acts, acts=acts, acts_sum=acts.detach().sum(0), gate_acts=acts),
        x_hat=x,
        weights={"W_enc": W_dec.T, "b_enc": torch.zeros(d_sae), "W_dec": W_dec, "b_dec": torch.zeros(d_in)},
        threshold=None,
        tokens_since_fired=torch.zeros(d_sae, dtype=torch.int64),
        dead_after=1,
        any_dead=False,
        step=0,
        num_steps=10_000,
        uniform=torch.rand(d_sae),
    )


def measure_penalty(name: str, ctx: StepContext, step: dict[str, Any], num_steps: int) -> dict[str, Any]:
    batch, d_sae = ctx.acts.shape
    penalty = Penalty.parse({"weight": 1.0, **PENALTIES[name]})
    state = penalty.init_state(ctx.W_dec.shape[1], d_sae)
    searching, search_flop, search_mib = timed(lambda: with_gradient(penalty, ctx, state, 0), 1)
    state = with_gradient(penalty, ctx, state, 0).state if searching < 1 else state
    plain, flop, mib = timed(lambda: with_gradient(penalty, ctx, state, 1), num_steps)
    every = getattr(penalty, "every", None) or default_interval(batch, d_sae)
    seconds = plain + max(0.0, searching - plain) / every
    operations = flop + (search_flop - flop) / every + gathered_flop(state, ctx, penalty)
    return {
        "share_of_time": seconds / step["seconds"],
        "share_of_flop": operations / (step["tflop"] * 1e12),
        "extra_mib": max(search_mib, mib),
        "seconds": seconds,
        "seconds without a search": plain,
        "seconds with a search": searching,
        "steps between searches": every,
    }


def with_gradient(penalty: Penalty, ctx: StepContext, state: State, step: int) -> Penalised:
    penalised = penalty(ctx.changed(step=step), state, settings_at(penalty, step, ctx.num_steps))
    torch.autograd.grad(penalised.value, [ctx.W_dec, ctx.acts], allow_unused=True)
    return penalised


def gathered_flop(state: State, ctx: StepContext, penalty: Penalty) -> float:
    """Counts the operations of selected pairs: per entry of a decoder row 2 for the cosine and 4 for its gradient; in
    absorption and balance also 4 per token for a pair's means."""
    num_pairs = len(state.get("chosen", ()))
    tokens = min(getattr(penalty, "statistics_tokens", 0), len(ctx.x)) if penalty.name in OBSERVED else 0
    return num_pairs * (6 * ctx.W_dec.shape[1] + 4 * tokens)


def timed(run: Callable[[], Any], num_steps: int) -> tuple[float, int, int]:
    """Returns median seconds, operations of matrix products in one run, and the peak of additional memory in MiB."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    seconds = []
    for _ in range(num_steps):
        with FlopCounterMode(display=False, custom_mapping=DENSE_ONLY) as counter:
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), counter.get_total_flops(), max(0, memory("VmHWM") - before)


def dense_only(*args: Any, out_val: Any = None, **_: Any) -> int:
    """Counts the operations of a dense matrix product; `gathered_flop` counts those with a sparse factor."""
    left, right = args[-2:]
    sparse = torch.sparse_csr in (left.layout, right.layout)
    return 0 if sparse else 2 * left.shape[0] * left.shape[1] * right.shape[1]


dense_only._get_raw = True  # type: ignore[attr-defined]  # the counter passes tensors, not their shapes
DENSE_ONLY = {torch.ops.aten.mm: dense_only, torch.ops.aten.addmm: dense_only}


def memory(field: str) -> int:
    """Returns a memory field of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()

"""Bounds of bfloat16 factors leave hardly more candidates than a trained SAE has entries, those of float8 many more.

    python bench/screen_formats.py [--steps 150]

Trains an SAE of each architecture for 150 steps on synthetic rows like a residual stream's, then counts what
a screen could not rule out if it rounded to bfloat16, to TF32 (10 bits behind the point) or to e4m3 (scaled for each
token and each direction, so that none overflows), with b_dec and the scale folded and without. The rounding is emulated
and the sums are exact. In `e4m3, 14 bits` the bound allows for sums of which each addition may lose 2^-13, as on Hopper
GPUs (DeepSeek-V3, arXiv 2412.19437, section 3.5.2). Makes no claim about speed. Writes results/screen_formats.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from gpu_parts.material import Rows
from record import write_result
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.sae.base import Architecture, Params, center, product
from saepipe.train.sae.topk import TopK
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = (
    "Bounds of bfloat16 factors leave hardly more candidates than a trained SAE has entries, those of float8 many more"
)
D_IN, D_SAE, BATCH, NUM_BATCHES = 512, 4096, 2048, 16
SAES: dict[str, dict[str, Any]] = {
    "relu": {"sae": {"name": "relu"}, "penalties": [{"name": "l1", "weight": 1.0}]},
    "topk": {"sae": {"name": "topk", "k": 32}},
    "jumprelu": {"sae": {"name": "jumprelu"}, "penalties": [{"name": "l0", "weight": 3.0, "target": 64}]},
}
HOPPER_SUMS = 2.0**-13
LR = {"relu": 1e-3, "topk": 1e-3, "jumprelu": 3e-3}


def bfloat16(factor: Tensor) -> Tensor:
    return factor.bfloat16().float()


def tf32(factor: Tensor) -> Tensor:
    """Rounds to 10 bits behind the point, halves away from 0."""
    bits = factor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def e4m3(factor: Tensor) -> Tensor:
    scale = torch.finfo(torch.float8_e4m3fn).max / factor.abs().amax(1, keepdim=True).clamp_min(1e-30)
    return (factor * scale).to(torch.float8_e4m3fn).float() / scale


FORMATS: dict[str, Callable[[Tensor], Tensor]] = {"bfloat16": bfloat16, "tf32": tf32, "e4m3": e4m3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    source = Rows(D_IN, torch.device("cpu"))
    batches = [source.sample(BATCH) for _ in range(NUM_BATCHES)]
    figures = {name: measure(name, batches, args.steps) for name in SAES}
    settings = {"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH, "steps": args.steps}
    write_result("screen_formats", CLAIM, {"per token": figures, "settings": settings})
    for name, line in figures.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.1f}" for key, value in line.items()))


def measure(name: str, batches: list[Tensor], steps: int) -> dict[str, float]:
    """Returns the entries per token of a trained SAE, and the candidates per token by format."""
    recipe, state = trained(name, batches, steps)
    sae, params = recipe.config.sae, state.all_params
    with torch.no_grad():
        rows, (inputs, bias) = batches[0].float(), sae.encoder_input(params, recipe.scaled(batches[0]))
        pre_acts = product(inputs, params["W_enc"], bias)
        counts = {"entries": float(sae.pattern(params, pre_acts).num_entries) / BATCH}
        for form, rounded in FORMATS.items():
            plain = bound(inputs, params["W_enc"].T, rounded(inputs), rounded)
            counts[form] = num_candidates(sae, params, pre_acts, plain)
            folded = bound(inputs, params["W_enc"].T, rounded(rows) * recipe.scale - center(params), rounded)
            counts[f"{form}, folded"] = num_candidates(sae, params, pre_acts, folded)
        sums = D_IN * HOPPER_SUMS * inputs.norm(dim=1, keepdim=True) * params["W_enc"].norm(dim=0)
        plain = bound(inputs, params["W_enc"].T, e4m3(inputs), e4m3)
        counts["e4m3, 14 bits"] = num_candidates(sae, params, pre_acts, plain + sums)
    return counts


def trained(name: str, batches: list[Tensor], steps: int) -> tuple[Recipe, TrainState]:
    raw = {**SAES[name], "sae": {**SAES[name]["sae"], "d_sae": D_SAE}, "optimizer": {"lr": LR[name], "warmup": 0}}
    raw |= {"cache": "none", "steps": 10_000, "batch_size": BATCH}  # so long that no schedule moves
    cpu = torch.device("cpu")
    scale = float(D_IN**0.5 / batches[0].float().square().sum(1).mean().sqrt())
    recipe = Recipe(TrainConfig.parse(raw).resolved(hook="none", num_rows=BATCH, device=cpu), D_IN, scale, cpu)
    state = fresh_state(recipe, initial_params(recipe))
    for step in range(steps):
        train_step(recipe, state, batches[step % len(batches)])
    return recipe, state


def bound(x: Tensor, W: Tensor, x_rounded: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns |x| |d| + |e| |v| of `saepipe.train.sae.screen`, (batch, d_sae), for directions W (d_sae, d_in)."""
    v = rounded(W)
    return x.norm(dim=1, keepdim=True) * (W - v).norm(dim=1) + (x - x_rounded).norm(dim=1, keepdim=True) * v.norm(dim=1)


def num_candidates(sae: Architecture, params: Params, pre_acts: Tensor, bound: Tensor) -> float:
    """Returns the candidates per token: within the bound of being active."""
    if isinstance(sae, TopK):
        floor: Tensor | float = (pre_acts - bound).topk(sae.kept, dim=1).values[:, -1:]
    else:
        floor = params.get("threshold", 0.0)
    return float((pre_acts + bound >= floor).sum()) / BATCH


if __name__ == "__main__":
    main()

"""Runs of every architecture, penalty and transform, for tests of captured steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saepipe.data.config.component import import_members
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture
from saepipe.train.step.state import Recipe, TrainState, fresh_state, initial_params

D_IN, BATCH, NUM_STEPS = 24, 17, 25
CPU = torch.device("cpu")

import_members(Penalty.package)
import_members(Architecture.package)

K: dict[str, dict[str, Any]] = {
    name: {"k": 5} for name in ("topk", "batch_topk", "matryoshka_batch_topk", "matching_pursuit")
}
STEERED = {"steer": "l0", "to": 5.0, "start": 0.3, "until": 0.5}
FALLING = {"start": 0.3, "end": 0.1, "finish": 0.5}


def sae(name: str, d_sae: int = 40) -> dict[str, Any]:
    return {"name": name, "d_sae": d_sae, **K.get(name, {})}


def penalty(name: str, **settings: Any) -> dict[str, Any]:
    return {"name": name, **({"l0": 5.0} if name == "l0_target" else {"weight": 0.3}), **settings}


def with_penalty(name: str, **settings: Any) -> dict[str, Any]:
    return {"sae": sae("topk" if name == "auxk" else "relu"), "penalties": [penalty(name, **settings)]}


PAIRS = sorted(name for name, member in Penalty.members.items() if "num_pairs" in member.statistics)
ELEMENTWISE = sorted(Penalty.members.keys() - {*PAIRS, "auxk"})

CASES: dict[str, dict[str, Any]] = {
    **{name: {"sae": sae(name)} for name in Architecture.members},
    "penalties of activations": {"sae": sae("relu"), "penalties": [penalty(name) for name in ELEMENTWISE]},
    "penalties of pairs": {"sae": sae("relu"), "penalties": [penalty(name) for name in PAIRS]},
    "auxk": with_penalty("auxk"),
    "a thresholds' penalty": {"sae": sae("jumprelu"), "penalties": [{"name": "l0", "weight": 0.1}]},
    "moving weights": {"sae": sae("relu"), "penalties": [{"name": "l1", "weight": FALLING, "warmup": 0.2}]},
    "a steered weight": with_penalty("l1", weight=STEERED, warmup=0.2),
    "a moving setting": with_penalty("rate_floor", p_min={"start": 0.01, "end": 0.1}),
    "a search in every third step": with_penalty("orthogonality", form="hinge", refresh_every=3),
    "many pairs": {**with_penalty("ortsae"), "sae": sae("relu", d_sae=600)},
    "inhibition": {**with_penalty("l1"), "transforms": [{"name": "inhibition"}]},
    "the norm": {"sae": sae("relu"), "reconstruction": "norm", "optimizer": {"lr": 3e-3, "clip": None}},
    "bfloat16": {**with_penalty("l1"), "compute_dtype": "bfloat16"},
    "a frozen decoder": {**with_penalty("ortsae"), "freeze": "decoder"},
    "a frozen encoder": {"sae": sae("topk"), "freeze": "encoder", "sparse_steps": "always"},
    "a soft-frozen decoder": {"sae": sae("batch_topk"), "freeze": "soft_decoder", "freeze_cosine": 0.99},
    "sparse topk": {**with_penalty("auxk"), "sparse_steps": "always"},
    "sparse batch_topk": {"sae": sae("batch_topk"), "sparse_steps": "always"},
    "sparse relu": {**with_penalty("l1"), "sparse_steps": "always"},
    "sparse jumprelu": {
        "sae": {**sae("jumprelu"), "bandwidth": 0.2},
        "penalties": [{"name": "l0", "weight": 0.1, "bandwidth": 0.2}],
        "sparse_steps": "always",
    },
    "sparse jumprelu, many near": {"sae": sae("jumprelu"), "sparse_steps": "always"},
    "sparse gated": {"sae": sae("gated"), "penalties": [penalty("l1")], "sparse_steps": "always"},
    "sparse, with penalties of activations": {
        "sae": sae("relu"),
        "penalties": [penalty(name) for name in ELEMENTWISE if name != "lp"],  # see ROUNDED
        "sparse_steps": "always",
    },
    "sparse, with penalties of pairs": {
        "sae": sae("relu"),
        "penalties": [penalty(name) for name in PAIRS],
        "sparse_steps": "always",
    },
    "sparse jumprelu, inhibited": {
        "sae": sae("jumprelu"),
        "penalties": [{"name": "l0", "weight": 0.1}],
        "transforms": [{"name": "inhibition"}],
        "sparse_steps": "always",
    },
    "sparse, bfloat16": {**with_penalty("l1"), "compute_dtype": "bfloat16", "sparse_steps": "always"},
    "sparse matryoshka_batch_topk": {"sae": sae("matryoshka_batch_topk"), "sparse_steps": "always"},
}
"""Changes to a config, by what they show. Latents die early, so that a step's `any_dead` turns true."""

ROUNDED = {"sae": sae("relu"), "penalties": [penalty("lp")], "sparse_steps": "always"}
"""On a CPU torch rounds the powers of an array's last few elements otherwise than those of the others, so entries that
follow change them."""


def recipe_of(changes: dict[str, Any], device: torch.device = CPU) -> Recipe:
    raw: dict[str, Any] = {"cache": "none", "hook": "h", "steps": NUM_STEPS, "batch_size": BATCH}
    raw |= {"dead": {"after_tokens": 60}, "optimizer": {"lr": 3e-3}, "sparse_steps": "never", "screen": "never"}
    config = TrainConfig.parse(raw | changes).resolved(hook="h", num_rows=1000, device=device)
    return Recipe(config, D_IN, 1.1, device)


def fresh(recipe: Recipe) -> TrainState:
    return fresh_state(recipe, initial_params(recipe))


def batches() -> Tensor:
    """Returns random rows, (NUM_STEPS, BATCH, D_IN)."""
    return torch.randn(NUM_STEPS, BATCH, D_IN, generator=torch.Generator().manual_seed(0))


def tensors(state: TrainState) -> dict[str, Tensor]:
    """Returns every tensor of a state by its path."""
    nested = {"moments": state.moments, "states": state.states}
    flat = {f"{part}/{label}/{name}": value for part, owners in nested.items() for label, own in owners.items()
            for name, value in own.items()}  # fmt: skip
    named = {"tokens_since_fired": state.tokens_since_fired, "sums": state.sums}
    return {**{name: value.detach() for name, value in state.all_params.items()}, **flat, **state.steered, **named}

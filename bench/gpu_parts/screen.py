"""The screen of sparse float32 steps: entries that it misses, candidates that it leaves, and steps with and without it.

Both steps have the same kernels; unscreened, the encoder's product is a float32 one, without TF32.
"""

from __future__ import annotations

from typing import Any

import torch
from gpu_parts.material import Rows
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.settled import ARCHITECTURES, Settled, new_run, settle
from gpu_parts.timing import attempt, in_turns, release, warm_up
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import center, product
from saepipe.train.sae.screen import Screen
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import train_step

SCREENS = {"unscreened": "never", "screened": "always"}


def measure(session: Session) -> dict[str, Any]:
    """Returns counts and milliseconds by architecture and width, the widest first."""
    scale, figures = session.scale, {}
    rows = Rows(scale.d_in, scale.device).sample(scale.batch)
    for d_sae in reversed(scale.d_saes):
        for name in ("topk", *(each for each in ARCHITECTURES if each != "topk")):
            key = f"{name} {d_sae}"
            if session.budget.left < 0:
                figures[key] = {"skipped": "the part's time was up"}
                continue
            figures[key] = attempt(key, lambda name=name, d_sae=d_sae: one_width(session, name, d_sae, rows))
            session.keep(figures)
            print(f"  {key}: {figures[key]}", flush=True)
    return figures


def one_width(session: Session, name: str, d_sae: int, rows: Tensor) -> dict[str, Any]:
    """Returns counts per token and, if no entry is missed, the milliseconds of both steps."""
    scale = session.scale
    settled = settle(scale, name, d_sae, rows)
    counts = counts_per_token(*run_of(scale, settled, "screened"), rows)
    if counts["missed"]:
        return counts | {"failed": f"the screen misses {counts['missed']:g} entries per token"}
    if not session.kernels_right:
        return counts | {"skipped": "a kernel is wrong"}
    release()
    warm = {}
    for screen in SCREENS:
        recipe, state = run_of(scale, settled, screen)
        step = lambda recipe=recipe, state=state: train_step(recipe, state, rows)  # noqa: E731
        warm[screen] = warm_up(lambda step=step: step, scale.device, scale.turn_seconds)
    timings = in_turns(warm, scale.device, scale.rounds)
    return counts | {"ms": {screen: 1e3 * timing.seconds for screen, timing in timings.items()}}


def run_of(scale: Scale, settled: Settled, screen: str) -> tuple[Recipe, TrainState]:
    return new_run(scale, settled, "always", 0, "float32", SCREENS[screen])


@torch.no_grad()
def counts_per_token(recipe: Recipe, state: TrainState, rows: Tensor) -> dict[str, float]:
    """Counts entries, candidates, and entries that are no candidates; of JumpReLU's also those near a threshold."""
    sae, params = recipe.config.sae, state.all_params
    inputs, bias = sae.encoder_input(params, recipe.scaled(rows))
    found = Screen.of(params["W_enc"], bias, center(params), recipe.channel_scale).entries(sae, params, inputs)
    pre_acts = product(inputs, params["W_enc"], bias)
    entries, near = sae.pattern(params, pre_acts), sae.near(params, pre_acts)
    if near is not None:
        entries = Pattern.of_mask(sae.mask(params, pre_acts) | near)
    if found is None:
        return {"entries": entries.num_entries / len(rows), "missed": 0}  # too many candidates: it is not used
    missed = ~torch.isin(entries.positions, found[0].positions)
    counts = {"entries": entries.num_entries, "candidates": found[0].num_entries, "missed": int(missed.sum())}
    return {key: count / len(rows) for key, count in counts.items()}

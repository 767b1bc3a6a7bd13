"""Rules about the parameters: H6, H7, H8, H14. A run that breaks one of them has no usable SAE."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.data.folders.health import Finding
from saepipe.train.sae.base import Params
from saepipe.train.step.state import Recipe, TrainState


def check_finite(state: TrainState) -> list[Finding]:
    """H7: the losses since the last log line, and the parameters, are finite. Waits for the device."""
    broken = [name for name, tensor in state.params.items() if not tensor.isfinite().all()]
    if not state.sums.isfinite().all():
        broken.insert(0, "the loss")
    pattern = f"not finite at step {{:,}}: {', '.join(broken)}; try a lower lr or smaller penalty weights"
    return [Finding.measured("H7", "error", pattern, state.step)] if broken else []


def check_finished(recipe: Recipe, state: TrainState, initial: Params | None) -> list[Finding]:
    """H6, H7, H8 and H14 of a run after its last step; `initial`: its parameters before b_dec was set, if known."""
    limits = recipe.config.health
    return [
        *check_steps(state.step, recipe.num_steps),
        *check_finite(state),
        *(check_moved(initial, state.params, limits.least_move) if initial else []),
        *check_unit_rows(state.all_params["W_dec"], limits.unit_tolerance),
    ]


def check_steps(done: int, planned: int) -> list[Finding]:
    """H6: all planned steps were done, and there was at least one."""
    pattern = f"{{:,}} of {planned:,} planned steps done; run the same command again"
    return [] if done == planned >= 1 else [Finding.measured("H6", "error", pattern, done)]


def check_moved(before: Params, after: Params, least: float) -> list[Finding]:
    """H8: training changed the encoder and the decoder; `after` lacks one that is frozen."""
    moves = {name: relative_move(before[name], after[name]) for name in ("W_enc", "W_dec") if name in after}
    small = {name: move for name, move in moves.items() if move < least}
    moved = " and ".join(f"{name} by {{:.2g}}" for name in small)
    pattern = f"training moved {moved} times its norm, below {least:.2g}; raise lr or train longer"
    return [Finding.measured("H8", "error", pattern, *small.values())] if small else []


def check_unit_rows(W_dec: Tensor, tolerance: float) -> list[Finding]:
    """H14: the decoder's rows (d_sae, d_out) have unit norm along d_out."""
    lengths = torch.linalg.vector_norm(W_dec.detach(), dim=1)
    worst = float((lengths - 1).abs().max())
    pattern = "a row of W_dec differs by {:.2g} from unit norm along the channels; was it normalised along d_sae?"
    return [] if worst <= tolerance else [Finding.measured("H14", "error", pattern, worst)]


def relative_move(before: Tensor, after: Tensor) -> float:
    """|after - before| / |before|."""
    difference = torch.linalg.vector_norm(after.detach().cpu() - before)
    return float(difference / torch.linalg.vector_norm(before))

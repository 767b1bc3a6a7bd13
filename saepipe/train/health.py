"""Rules that a run must pass before it may call itself done; their ids are those of docs/training.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from saepipe.train.sae.base import Params
from saepipe.train.state import Recipe, TrainState

UNIT_TOLERANCE = 1e-3
LEAST_MOVE = 1e-3


@dataclass(frozen=True)
class Finding:
    """What a rule has to say about a run; an `error` keeps it from being committed."""

    rule: str
    severity: Literal["error", "warning"]
    message: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_finite(state: TrainState) -> list[Finding]:
    """H7: the losses since the last line, and the parameters, are finite. Waits for the device."""
    found = [name for name, tensor in state.params.items() if not tensor.isfinite().all()]
    if not state.sums.isfinite().all():
        found.insert(0, "the loss")
    message = f"not finite at step {state.step}: {', '.join(found)}"
    return [Finding("H7", "error", message)] if found else []


def check_finished(recipe: Recipe, state: TrainState, initial: Params) -> list[Finding]:
    """H6, H7, H8 and H14 on a run that says it is done; `initial` are its parameters before step 0, but for b_dec."""
    moved = [name for name in ("W_enc", "W_dec") if relative_move(initial[name], state.params[name]) < LEAST_MOVE]
    lengths = torch.linalg.vector_norm(state.params["W_dec"].detach(), dim=1)
    worst = float((lengths - 1).abs().max())
    findings = check_finite(state)
    if state.step != recipe.num_steps or state.step < 1:
        findings.append(Finding("H6", "error", f"{state.step} steps done of {recipe.num_steps} planned"))
    if moved:
        findings.append(Finding("H8", "error", f"moved by less than {LEAST_MOVE:.1%} in training: {', '.join(moved)}"))
    if not worst <= UNIT_TOLERANCE:
        findings.append(Finding("H14", "error", f"a row of W_dec is {worst:.2g} away from unit norm along d_in"))
    return findings


def relative_move(before: Tensor, after: Tensor) -> float:
    """|after - before| / |before|."""
    difference = torch.linalg.vector_norm(after.detach().cpu() - before)
    return float(difference / torch.linalg.vector_norm(before))

"""Counts the operations that a settled training step dispatches, by architecture and penalty, dense and sparse.

    python bench/operations.py

On a GPU each is one or more kernel launches, about 6 microseconds of the host, whatever the size. Views are not
counted. The step searches for no pairs, no latent is dead, and the loss is not measured for the log. Penalties are
counted on top of a relu with l1 (of topk for auxk, of jumprelu for l0). Counts do not depend on the machine, and on
sizes only where a penalty multiplies pairs of latents: these products are sparse above 512 latents. They may depend on
the version of torch. Writes results/operations.json; a test keeps each count from growing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from record import write_result
from torch.utils._python_dispatch import TorchDispatchMode

from saepipe.data.config.component import Component, import_members
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture
from saepipe.train.step.state import Recipe, fresh_state, initial_params
from saepipe.train.step.step import train_step

CLAIM = "A settled step dispatches few operations: relu with l1 at most 40 dense and 60 sparse (the aim)"
D_IN, D_SAE, BATCH = 24, 40, 64
WIDE = 640  # latents at which the products of pairs are sparse
WIDE_PENALTIES = ("absorption", "balance", "c2r", "ortsae", "random_pairs", "topk_orthogonality")
SETTLED = 51  # no multiple of REFRESH, so it searches for no pairs
REFRESH = 100
REQUIRED: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "matryoshka_batch_topk": {"k": 4},
    "matching_pursuit": {"k": 4},
    "l0_target": {"l0": 5.0},
}
PATHS = {"dense": "never", "sparse": "always"}
L1 = {"name": "l1", "weight": 0.3}
BASES: dict[str, tuple[str, list[dict[str, Any]]]] = {"auxk": ("topk", []), "l0": ("jumprelu", []), "l1": ("relu", [])}
VIEWS = frozenset(
    [
        "_unsafe_view",
        "alias",
        "as_strided",
        "detach",
        "diagonal",
        "expand",
        "lift_fresh",
        "permute",
        "select",
        "slice",
        "split",
        "split_with_sizes",
        "squeeze",
        "t",
        "transpose",
        "unbind",
        "unsqueeze",
        "view",
    ]
)


class Operations(TorchDispatchMode):
    """Counts what is dispatched while it is entered, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def main() -> None:
    counted = counts()
    for name, by_path in counted.items():
        print(f"{name:45}", *(f"{count:4} {path}" for path, count in by_path.items()))
    write_result("operations", CLAIM, {"operations": counted})


def counts() -> dict[str, dict[str, int]]:
    """Returns the operations of a dense and a sparse step, by architecture, and by architecture and penalty."""
    import_members(Architecture.package)
    import_members(Penalty.package)
    steps: dict[str, tuple[str, list[dict[str, Any]], int]] = {name: (name, [], D_SAE) for name in own(Architecture)}
    for name in own(Penalty):
        sae, others = BASES.get(name, ("relu", [L1]))
        label = " + ".join([sae, *(other["name"] for other in others), name])
        steps[label] = sae, [*others, penalty(name)], D_SAE
        if name in WIDE_PENALTIES:
            steps[f"{label}, {WIDE} latents"] = sae, [*others, penalty(name)], WIDE
    return {
        label: {path: operations(*step, sparse_steps=PATHS[path]) for path in paths(step[0])}
        for label, step in steps.items()
    }


def paths(sae: str) -> list[str]:
    """Returns the kinds of steps that an architecture has."""
    return [path for path in PATHS if path == "dense" or Architecture.members[sae].sparse]


def own(family: type[Component]) -> list[str]:
    """Returns the names of the family's members that are part of saepipe."""
    return [name for name, member in family.members.items() if member.__module__.startswith(family.package)]


def penalty(name: str) -> dict[str, Any]:
    settings = {"name": name, "weight": 0.3, **REQUIRED.get(name, {})}
    searches = "refresh_every" in Penalty.members[name].model_fields
    return settings | ({"refresh_every": REFRESH} if searches else {})


def operations(sae: str, penalties: list[dict[str, Any]], d_sae: int, *, sparse_steps: str) -> int:
    """Returns the number of operations of a settled step."""
    raw: dict[str, Any] = {"sae": {"name": sae, "d_sae": d_sae, **REQUIRED.get(sae, {})}, "penalties": penalties}
    raw |= {"cache": "none", "hook": "none", "steps": 600, "batch_size": BATCH, "sparse_steps": sparse_steps}
    raw |= {"screen": "never"}  # which most processors have no use for
    raw |= {"dead": {"after_tokens": 10**6}}
    recipe = Recipe(TrainConfig.parse(raw), D_IN, 1.1, torch.device("cpu"))
    state = fresh_state(recipe, initial_params(recipe))
    x = torch.randn(BATCH, D_IN, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        train_step(recipe, state, x)
    state.step = SETTLED
    with Operations() as operations:
        train_step(recipe, state, x)
    return operations.counts.total()


if __name__ == "__main__":
    main()

"""Arms of a validation: baselines with a penalty added, their sparsity replaced, or their architecture changed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from saepipe.data.errors import ConfigError
from saepipe.evaluate.validate.config import Baseline, BaselineSweep
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture

Raw = dict[str, Any]
Kind = Literal["added", "replaces l1", "architecture"]

FACTORS = (0.1, 0.3, 1.0, 3.0)
"""Weights to choose from, relative to a penalty's default, for penalties that are not in the table below."""


@dataclass(frozen=True)
class Arm:
    """One way to train, and the settings to choose from."""

    name: str
    kind: Kind = "added"
    penalty: Raw = field(default_factory=dict, hash=False)
    weights: tuple[float, ...] = ()  # to choose from; a penalty that replaces l1 has a sweep instead
    sae: Raw = field(default_factory=dict, hash=False)  # replaces the baseline's; d_sae, and k if swept, are added
    sweep: tuple[float, ...] = ()  # replaces the baseline's
    baselines: tuple[Baseline, ...] = ("relu", "batch_topk")
    control: bool = False  # a study's own setting, expected to fail


BASELINE = Arm("baseline", "architecture")

WINDOW = 25_600
"""Tokens in the window of `absorption` and `balance`: 100 batches, as in the study."""

STUDY_A = {"name": "absorption", "window": WINDOW, "ratio": "conditional", "rho": 0.5, "tau": 0.8}
COSINE = {"name": "topk_orthogonality", "select": "cosine", "fraction": 0.01}
COACTIVATION = {"name": "topk_orthogonality", "select": "coactivation", "fraction": 0.01}


def _absorption(ratio: str, weights: tuple[float, ...], **settings: float) -> Arm:
    return Arm(
        f"absorption/{ratio}",
        penalty={"name": "absorption", "ratio": ratio, "window": WINDOW, **settings},
        weights=weights,
    )


def _sparsity(name: str, sweep: tuple[float, ...], **settings: float) -> Arm:
    return Arm(name, "replaces l1", {"name": name, **settings}, sweep=sweep, baselines=("relu",))


ARMS: tuple[Arm, ...] = (
    Arm("ortsae", penalty={"name": "ortsae"}, weights=(0.1, 0.3, 1.0)),
    Arm("topk_orthogonality/cosine", penalty=COSINE, weights=(0.7, 2.2, 7.0)),
    Arm("topk_orthogonality/both", penalty=COSINE | {"select": "both"}, weights=(0.7, 2.2, 7.0)),
    Arm("topk_orthogonality/coactivation", penalty=COACTIVATION, weights=(0.7, 2.2, 7.0), control=True),
    Arm("topk_orthogonality/study-b", penalty=COACTIVATION | {"fraction": 0.001}, weights=(0.1, 1.0), control=True),
    Arm("c2r", penalty={"name": "c2r"}, weights=(0.3, 1.0, 3.0)),
    Arm("orthogonality/all_pairs", penalty={"name": "orthogonality"}, weights=(0.1, 0.3, 1.0)),
    Arm("orthogonality/hinge", penalty={"name": "orthogonality", "form": "hinge"}, weights=(0.1, 0.3, 1.0)),
    _absorption("suppression", (0.6, 1.8, 5.4), tau=0.1),
    Arm("balance", penalty={"name": "balance", "window": WINDOW}, weights=(0.3, 1.0, 3.0)),
    _absorption("conditional", (0.3, 0.9, 2.7), tau=0.3, rho=0.5),
    _absorption("lift", (0.3, 0.9, 2.7), tau=0.3, rho=5.0),
    _absorption("magnitude", (0.3, 0.9, 2.7), tau=0.3, rho=0.5),
    _absorption("magnitude_lift", (0.3, 0.9, 2.7), tau=0.3, rho=5.0),
    Arm("absorption/study-a", penalty=STUDY_A, weights=(0.05, 0.2, 0.9), control=True),
    _sparsity("lp", (0.15, 0.3, 0.6, 1.2)),
    _sparsity("tanh", (0.25, 0.45, 0.8, 1.4)),
    _sparsity("log", (0.08, 0.14, 0.22, 0.4)),
    Arm(
        "l0", "replaces l1", {"name": "l0"}, sae={"name": "jumprelu"}, sweep=(0.01, 0.03, 0.1, 0.3), baselines=("relu",)
    ),
    Arm("gated", "architecture", sae={"name": "gated"}, sweep=(0.8, 1.1, 1.5, 2.2), baselines=("relu",)),
    Arm("matryoshka", "architecture", sae={"name": "matryoshka_batch_topk"}, baselines=("batch_topk",)),
    Arm("auxk", penalty={"name": "auxk"}, weights=(0.03, 0.3)),
    Arm("preact", penalty={"name": "preact"}, weights=(3e-6, 3e-4, 3e-3)),
    Arm("rate_floor", penalty={"name": "rate_floor"}, weights=(0.03, 0.3)),
)


def select_arms(names: Sequence[str]) -> list[Arm]:
    """Returns the arms by these names: `all`, an arm, all arms of a penalty, or a penalty that is not in the table.

    Raises:
        ConfigError: if there is no arm and no penalty of that name.
    """
    arms: dict[str, Arm] = {}
    for name in names:
        matches = [arm for arm in ARMS if name in ("all", arm.name, arm.name.partition("/")[0])]
        for arm in matches or [_unlisted_arm(name)]:
            arms[arm.name] = arm
    return list(arms.values())


def _unlisted_arm(name: str) -> Arm:
    """Returns an arm that adds a penalty with its default settings, with several weights to choose from."""
    near = difflib.get_close_matches(name, [arm.name for arm in ARMS], n=1, cutoff=0.7)
    if "/" in name or near:
        raise ConfigError(
            f"there is no arm {name!r}", hint=f"did you mean {near[0]!r}?" if near else "saepipe validate all"
        )
    default = Penalty.member(name).model_fields["weight"].get_default()
    weight = float(default) if isinstance(default, int | float) else 1.0
    weights = tuple(weight * factor for factor in FACTORS)
    accepted = tuple(baseline for baseline in get_args(Baseline) if not why_refused(name, baseline))
    if not accepted:
        reason = why_refused(name, "relu")
        raise ConfigError(f"{name} cannot be added to any of {', '.join(get_args(Baseline))}: {reason}")
    return Arm(name, penalty={"name": name}, weights=weights, baselines=accepted)


def why_refused(name: str, baseline: Baseline) -> str | None:
    """Returns the reason why a penalty cannot be added to a baseline; None if it can."""
    penalty = Penalty.member(name).model_validate({"name": name, "weight": 1.0})
    sae = Architecture.member(baseline).model_validate({"d_sae": 4, **({"k": 1} if baseline == "batch_topk" else {})})
    assert isinstance(penalty, Penalty)
    assert isinstance(sae, Architecture)
    return penalty.refuses(sae)


def raw_config(
    arm: Arm, baseline: Baseline, swept: BaselineSweep, weight: float | None
) -> tuple[Raw, str, tuple[float, ...]]:
    """Returns the arm's parts of a training config, and the dotted key and the values of its sweep."""
    sae: Raw = {"name": baseline, **arm.sae}
    if baseline == "batch_topk":
        added = [arm.penalty | {"weight": weight}] if arm.penalty else []
        return {"sae": sae, "penalties": added}, "sae.k", arm.sweep or swept.sweep
    sparsity = arm.penalty if arm.kind == "replaces l1" else {"name": "l1"}
    added = [arm.penalty | {"weight": weight}] if arm.kind == "added" else []
    return {"sae": sae, "penalties": [sparsity, *added]}, "penalties.0.weight", arm.sweep or swept.sweep

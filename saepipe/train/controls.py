"""Controls of a variant: its config with a part frozen, or with random pairs in place of those that a penalty selects.

A claim about a variant means little if a control of it, at the same L0, reaches as much (arXiv 2602.14111).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig, labels
from saepipe.train.control_kinds import FREEZES, PLACEBO, Control
from saepipe.train.penalties.base import Penalty

MARGINS = {"topk_orthogonality": "tau"}
"""Settings that play the part of `margin`, by penalty."""


def control_config(config: TrainConfig, control: Control, num_pairs: Mapping[str, float] | None = None) -> TrainConfig:
    """Returns the config of a variant's control; arguments and errors as for `control_overrides`."""
    return TrainConfig.parse(config.to_dict() | control_overrides(config, control, num_pairs), source=control)


def control_overrides(
    config: TrainConfig, control: Control, num_pairs: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Returns the keys in which a control differs from its variant, as overrides of `variants:`.

    `random_pairs` replaces every penalty that selects pairs; weight, warm-up and margin stay.

    Args:
        config: of the variant.
        control: its kind.
        num_pairs: pairs that a run of the variant selected, by the penalty's label, as the `audit` of its health.json
            has them; None: as many as the penalties' settings allow.

    Raises:
        ConfigError: if the variant is frozen already, or selects no pairs.
    """
    if control == PLACEBO:
        return {"penalties": _with_random_pairs(config, num_pairs or {})}
    if config.freeze:
        raise ConfigError(f"{control}: the variant is a control itself (freeze: {config.freeze})", hint="drop one")
    return {"freeze": next(freeze for freeze, name in FREEZES.items() if name == control)}


def _with_random_pairs(config: TrainConfig, num_pairs: Mapping[str, float]) -> list[dict[str, Any]]:
    d_sae, penalties = config.sae.d_sae, []
    for label, penalty in zip(labels(config.penalties), config.penalties, strict=True):
        most = most_pairs(penalty, d_sae)
        penalties.append(penalty.to_dict() if most is None else _placebo(penalty, num_pairs.get(label, most) / d_sae))
    if penalties == [penalty.to_dict() for penalty in config.penalties]:
        names = ", ".join(penalty.name for penalty in config.penalties) or "none"
        raise ConfigError(
            f"{PLACEBO}: no penalty of the variant selects pairs (penalties: {names})",
            hint="it is the control of ortsae, topk_orthogonality, absorption, balance and c2r; use frozen_decoder",
        )
    return penalties


def most_pairs(penalty: Penalty, d_sae: int) -> int | None:
    """Returns how many pairs a penalty can select at once; None if it selects none, or all, or draws them at random."""
    if penalty.name == PLACEBO or "num_pairs" not in penalty.statistics:
        return None
    state = penalty.init_state(1, d_sae)
    return len(state["chosen"]) if "chosen" in state else None


def _placebo(penalty: Penalty, per_latent: float) -> dict[str, Any]:
    """Returns random pairs as many and as strong as a penalty's, at least one per latent."""
    plain = penalty.to_dict()
    margin = plain.get(MARGINS.get(penalty.name, "margin"), 0.0)
    kept = {"weight": plain["weight"], "warmup": plain["warmup"], "margin": margin}
    return {"name": PLACEBO, **kept, "pairs_per_latent": max(1, round(per_latent))}

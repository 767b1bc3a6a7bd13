"""Kinds of controls of a variant, and how one is recognised by two configs as plain data, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from saepipe.train.freeze import Freeze

Control = Literal["frozen_decoder", "frozen_encoder", "soft_decoder", "random_pairs"]
CONTROLS: tuple[Control, ...] = get_args(Control)

PLACEBO: Final = "random_pairs"
FREEZES: Mapping[Freeze, Control] = {
    "decoder": "frozen_decoder",
    "encoder": "frozen_encoder",
    "soft_decoder": "soft_decoder",
}

_BESIDE = frozenset({"seed", "data_seed", "freeze", "freeze_cosine", "penalties", "plugin_sources"})
"""Keys of an identity that are compared by themselves, or not at all."""


def recognised_control(run: Mapping[str, Any], variant: Mapping[str, Any]) -> Control | None:
    """Returns which control of a variant a run is, by both identities (`Run.settings`) but for seeds; None if none."""
    same = [{key: value for key, value in each.items() if key not in _BESIDE} for each in (run, variant)]
    ours, theirs = run.get("penalties", []), variant.get("penalties", [])
    if same[0] != same[1] or len(ours) != len(theirs):
        return None
    changed = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    freezes = run.get("freeze"), variant.get("freeze")
    if freezes[0] and not freezes[1] and not changed:
        return FREEZES[freezes[0]]
    return PLACEBO if freezes[0] == freezes[1] and changed and all(_is_placebo(*each) for each in changed) else None


def _is_placebo(penalty: Mapping[str, Any], of: Mapping[str, Any]) -> bool:
    """Returns whether a penalty is random pairs of the same weight in place of another one; both are plain data."""
    strengths = [(each.get("weight"), each.get("warmup")) for each in (penalty, of)]
    return penalty["name"] == PLACEBO != of["name"] and strengths[0] == strengths[1]

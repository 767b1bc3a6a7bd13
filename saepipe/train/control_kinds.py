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


_L0S = frozenset({("l0", "target"), ("l0_target", "l0")})
"""Settings of penalties that are an L0."""


def may_be_control(run: Mapping[str, Any]) -> bool:
    """Returns whether a run, by its identity, is a control of any variant: frozen in part, or with random pairs."""
    return bool(run.get("freeze")) or any(penalty["name"] == PLACEBO for penalty in run.get("penalties", []))


def recognised_control(run: Mapping[str, Any], variant: Mapping[str, Any]) -> Control | None:
    """Returns which control of a variant a run is, by both identities (`Run.settings`); None if it is none.

    Seeds do not count, nor the L0 that each is trained to: for a test their L0s must match in any case.
    """
    run, variant = _to_any_l0(run), _to_any_l0(variant)
    same = [{key: value for key, value in each.items() if key not in _BESIDE} for each in (run, variant)]
    ours, theirs = run.get("penalties", []), variant.get("penalties", [])
    if same[0] != same[1] or len(ours) != len(theirs):
        return None
    changed = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    freezes = run.get("freeze"), variant.get("freeze")
    if freezes[0] and not freezes[1] and not changed:
        return FREEZES[freezes[0]]
    return PLACEBO if freezes[0] == freezes[1] and changed and all(_is_placebo(*each) for each in changed) else None


def _to_any_l0(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings without the L0 that they train to: k, the `target` of an l0, the `l0` of an l0_target."""
    penalties = [
        {key: value for key, value in penalty.items() if (penalty["name"], key) not in _L0S}
        for penalty in settings.get("penalties", [])
    ]
    sae = {key: value for key, value in settings["sae"].items() if key != "k"}
    return {**settings, "sae": sae, "penalties": penalties}


def _is_placebo(penalty: Mapping[str, Any], of: Mapping[str, Any]) -> bool:
    """Returns whether a penalty is random pairs of the same weight in place of another one; both are plain data."""
    strengths = [(each.get("weight"), each.get("warmup")) for each in (penalty, of)]
    return penalty["name"] == PLACEBO != of["name"] and strengths[0] == strengths[1]

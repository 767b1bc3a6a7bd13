"""Names of hooks in SAELens' folders, which are TransformerLens', where they differ from ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_Z = "attn.hook_z"

_TO_THEIRS = {"hook_mlp_in": "mlp.hook_in"}
_TO_OURS = {"mlp.hook_in": "hook_mlp_in", "hook_mlp_in": "hook_resid_mid"}
"""TransformerLens' hook_mlp_in is the residual stream before the norm; ours is what the MLP's first matrix reads."""


KEYS = ("hook_name", "hook_name_out")
"""Keys of the metadata that name a hook: what is read and, of a transcoder, what is reconstructed."""


def in_their_words(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata of an SAE with its hooks as TransformerLens names them."""
    return _renamed(metadata, _TO_THEIRS)


def in_our_words(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata of an SAE with its hooks as saepipe names them."""
    return _renamed(metadata, _TO_OURS)


def reshaping(metadata: Mapping[str, Any]) -> str:
    """Returns SAELens' `reshape_activations`: at hook_z it, too, lays the heads one after the other."""
    return "hook_z" if str(metadata.get("hook_name")).endswith(_Z) else "none"


def _renamed(metadata: Mapping[str, Any], sites: Mapping[str, str]) -> dict[str, Any]:
    matches = {key: re.fullmatch(r"(blocks\.\d+\.)(.+)", str(metadata.get(key))) for key in KEYS}
    sited = {key: match[1] + sites[match[2]] for key, match in matches.items() if match and match[2] in sites}
    return {**metadata, **sited}

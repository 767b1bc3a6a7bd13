"""Frozen arms: a part of an SAE stays at its start, or near it, so that a figure shows what training it is worth.

Korznikov et al. 2026, "Sanity Checks for Sparse Autoencoders" (arXiv 2602.14111), find that such SAEs come close to
trained ones. All else is trained, b_dec too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Freeze = Literal["decoder", "encoder", "soft_decoder"]
"""W_dec, or W_enc and b_enc, do not change; or the rows of W_dec keep a least cosine with their start."""

MIN_COSINE = 0.8
"""Least cosine of the paper's soft-frozen decoder."""

_NAMES: Mapping[str, frozenset[str]] = {"decoder": frozenset({"W_dec"}), "encoder": frozenset({"W_enc", "b_enc"})}


def frozen_names(freeze: Freeze | None) -> frozenset[str]:
    """Returns the names of the parameters that stay at their start to the last bit."""
    return _NAMES.get(freeze or "", frozenset())

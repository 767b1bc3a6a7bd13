"""SAELens' `matching_pursuit`: it has no encoder of its own, and may stop a token's steps early, as ours never does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from saepipe.data.errors import ConfigError
from saepipe.train.sae.base import Params

NAME = "matching_pursuit"


def their_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns SAELens' keys for ours: k steps, none of them left out."""
    others = {key: value for key, value in settings.items() if key != "k"}
    return {**others, "max_iterations": settings["k"], "residual_threshold": 0.0, "stop_on_duplicate_support": False}


def our_settings(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Returns our settings for SAELens' keys, of which the defaults are those of its class.

    Raises:
        ConfigError: if SAELens would stop a token's steps early, or not add b_dec again.
    """
    limit = config.get("max_iterations")
    stops = {
        "residual_threshold": config.get("residual_threshold", 1e-2) > 0,
        "stop_on_duplicate_support": config.get("stop_on_duplicate_support", True),
        "apply_b_dec_to_input": not config.get("apply_b_dec_to_input", True),
    }
    if unlike := [f"{key} {config.get(key, 'at its default')}" for key, differs in stops.items() if differs]:
        raise ConfigError(
            f"{source}: a {NAME} with {', '.join(unlike)} is none of saepipe's",
            hint="supported: residual_threshold 0, stop_on_duplicate_support false, apply_b_dec_to_input true, "
            "as in SynthSAEBench",
        )
    return {"d_sae": config["d_sae"], "k": config["d_in"] if limit is None else limit}


def without_encoder(params: Params) -> Params:
    """Returns the tensors of SAELens' files."""
    return {name: value for name, value in params.items() if name not in ("W_enc", "b_enc")}


def with_encoder(params: Params) -> Params:
    """Returns the tensors of SAELens' files and the encoder that belongs to them."""
    W_dec = params["W_dec"]
    return {**params, "W_enc": W_dec.T.contiguous(), "b_enc": torch.zeros(len(W_dec))}

"""The Hugging Face model inside the objects of other libraries."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from saepipe.data.errors import ConfigError

_HELD_AS = ("original_model", "_module", "_model")
"""Attributes under which TransformerLens' TransformerBridge and nnsight's models hold it."""


def plain_model(model: Any) -> PreTrainedModel:
    """Returns the model itself; raises ConfigError if there is none, as in TransformerLens' HookedTransformer."""
    candidates = (model, *(vars(model).get(name) for name in _HELD_AS))
    for candidate in candidates:
        if isinstance(candidate, PreTrainedModel):
            return candidate
    raise ConfigError(
        f"{type(model).__name__} holds no Hugging Face model",
        hint="give a model of transformers, or TransformerBridge or TransformersModel around one",
    )

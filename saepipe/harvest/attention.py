"""Attention implementations, compared with `eager`, which does what a model's definition says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from saepipe.data.errors import ConfigError, is_out_of_memory
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.model_config import Attention

FASTEST_FIRST: Mapping[str, tuple[Attention, ...]] = {"cpu": ("sdpa",), "cuda": ("sdpa", "flex_attention")}
"""What `auto` tries before `eager`, by device. It does not time them: the same settings must give the same cache."""


def with_fastest_attention(lm: LanguageModel, ids: torch.Tensor, hooks: Sequence[HookPoint]) -> LanguageModel:
    """Returns the model with the first of FASTEST_FIRST that it has and that agrees with eager, else with `eager`.

    Args:
        lm: a model that was loaded with `attention: auto`.
        ids: (batch, seq) token ids of real text.
        hooks: the hook points to compare.
    """
    eager = _by_window(lm, ids, hooks)
    for name in FASTEST_FIRST.get(lm.model.device.type, ()):
        try:
            lm.model.set_attn_implementation(name)
            agrees = not _differences(lm, _by_window(lm, ids, hooks), eager)
        except (ImportError, RuntimeError, ValueError) as error:  # the model, or this machine, does not have it
            if is_out_of_memory(error):
                raise
            agrees = False
        if agrees:
            return with_attention(lm, name)
    return with_attention(lm, "eager")


def with_attention(lm: LanguageModel, attention: Attention) -> LanguageModel:
    """Returns the model with this implementation, as if it had been loaded with it."""
    if attention != "auto":
        lm.model.set_attn_implementation(attention)
    return replace(lm, config=lm.config.model_copy(update={"attention": attention}))


def _by_window(lm: LanguageModel, ids: torch.Tensor, hooks: Sequence[HookPoint]) -> dict[str, torch.Tensor]:
    """Captures one window at a time, since the scores of `eager` grow with the square of its length."""
    parts = [capture(lm.model, window, hooks) for window in torch.split(ids, 1)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def check_attention(lm: LanguageModel, ids: torch.Tensor, hooks: Sequence[HookPoint]) -> None:
    """Rejects an attention implementation that ignores the model's soft-capping of attention logits.

    Some attention kernels silently drop Gemma-2's soft-capping, so any implementation other than `eager` is compared
    with it on one batch.

    Args:
        lm: the model.
        ids: (batch, seq) token ids of real text.
        hooks: the hook points to compare.

    Raises:
        ConfigError: if the residual streams differ by more than rounding in the dtype explains.
    """
    capped = getattr(lm.model.config.get_text_config(), "attn_logit_softcapping", None)
    if capped is None or lm.config.attention == "eager":
        return
    configured = capture(lm.model, ids, hooks)
    lm.model.set_attn_implementation("eager")
    eager = capture(lm.model, ids, hooks)
    lm.model.set_attn_implementation(lm.config.attention)
    for name, error in _differences(lm, configured, eager).items():
        raise ConfigError(
            f"attention {lm.config.attention!r} differs from eager at {name} by {error:.1e} "
            f"(allowed {_allowed(lm):.1e}): it ignores the soft-capping at {capped}",
            hint="attention: eager",
        )


def _differences(
    lm: LanguageModel, x: Mapping[str, torch.Tensor], eager: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Relative errors by hook, where rounding in the model's dtype does not explain them."""
    errors = {name: float((x[name].float() - y.float()).norm() / y.float().norm()) for name, y in eager.items()}
    return {name: error for name, error in errors.items() if not error <= _allowed(lm)}


def _allowed(lm: LanguageModel) -> float:
    return 8 * torch.finfo(lm.model.dtype).eps

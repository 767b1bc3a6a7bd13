"""Whether a model's predictions see later tokens, measured."""

from __future__ import annotations

import torch

from saepipe.data.errors import ConfigError
from saepipe.harvest.model import LanguageModel

_LONGEST = 512
"""Tokens of the window that is compared."""
_ROUNDING = 1e-4
"""Relative change of logits in float32 that rounding explains. Dense models of transformers 5.23 on a CPU change by
exactly 0, in float32 and in bfloat16, and mixtures of experts by 3e-7, since later tokens change the size of an
expert's batch; an untrained bidirectional BERT changes by 1e-3."""


@torch.no_grad()
def check_causal(lm: LanguageModel, ids: torch.Tensor) -> None:
    """Refuses a model whose logits at a position depend on tokens after it, such as an encoder.

    Its harvest would be sound, but nothing that is measured afterwards: a loss, and so every figure of `core`, says
    nothing of a model that sees the token it is to predict, and evaluations pad texts on the right. A config does not
    tell: `is_decoder` is False in most causal models, and some attend both ways by a key of their own
    (`use_bidirectional_attention`).

    Args:
        lm: the model.
        ids: (1, seq) token ids of real text, seq >= 2.

    Raises:
        ConfigError: if other tokens in the second half change the logits in the first by more than rounding.
    """
    ids = ids[:, :_LONGEST].to(lm.model.device)
    cut = ids.shape[1] // 2
    others = torch.cat([ids[:, :cut], (ids[:, cut:] + 1) % lm.num_ids], dim=1)
    x, y = (_centred(lm, sequence, cut) for sequence in (ids, others))
    change = (x - y).norm(dim=-1) / x.norm(dim=-1)  # NaN, for a model that gives NaN, is not above any limit
    position = int(change.argmax())
    if change[position] > max(_ROUNDING, 8 * torch.finfo(lm.model.dtype).eps):
        raise ConfigError(
            f"{lm.config.model!r} is not causal: other tokens from position {cut} on change its logits at position "
            f"{position} by {float(change[position]):.2g} of their norm",
            hint="use a causal language model; the loss of one that sees the next token says nothing about an SAE",
        )


def _centred(lm: LanguageModel, ids: torch.Tensor, cut: int) -> torch.Tensor:
    """Returns the logits of the first positions, (cut, vocab) float32, less the mean over the vocabulary."""
    logits = lm.model(input_ids=ids, use_cache=False).logits[0, :cut].float()
    return logits - logits.mean(dim=-1, keepdim=True)

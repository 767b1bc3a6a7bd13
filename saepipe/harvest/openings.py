"""What BOS does for a model: its loss on a little text with the BOS of a harvest, with other tokens, and without.

A model may have been trained with another token between documents than the one that its tokenizer calls BOS, or with
none. The loss shows it, and the norm of the activations does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from saepipe.data.cache.layout import Split
from saepipe.data.cache.special_tokens import keep_mask
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.tokenize import Window

_LONGEST_WINDOW, _NUM_TOKENS = 512, 1024
"""Tokens that are measured with each opening, in all. They do not depend on the harvest's length, so that a cache that
is extended equals one that was made at once."""
_SEARCHED = 2**18
"""Tokens of text in which held-out windows are looked for."""
_SEPARATORS = ("<|endoftext|>", "<|end_of_text|>")
"""Tokens between documents in the pre-training of GPT-2, SmolLM2 and others, and of Llama 3: often without a role."""
_CHUNK = 64
"""Positions whose logits are converted to float32 at once."""


def measured_size(config: HarvestConfig) -> int:
    """Returns the length in tokens of the windows that are measured."""
    return min(config.context_size, _LONGEST_WINDOW)


def measure_openings(
    config: HarvestConfig, lm: LanguageModel, windows: Iterator[tuple[Split, Window]]
) -> dict[str, Any] | None:
    """Measures the mean cross-entropy of the same ordinary tokens with each opening.

    An opening takes the place of BOS everywhere: at the start of a window and, unless `bos: windows`, between
    documents. The first token of a window is not scored, since without an opening nothing predicts it.

    Args:
        config: the harvest.
        lm: its model.
        windows: of its text, `measured_size` long and without BOS.

    Returns:
        {"split": of the text, "num_windows", "window_size", "num_tokens": scored, "losses": [{"token": None for no
        token, "ce": nats per token, "difference": from the first, "standard_error": of that, over windows}]}, the
        harvest's own opening first, with None for what is not finite. None if the text does not fill a window, or
        holds ids that the model does not have, which the harvest will refuse.
    """
    size = measured_size(config)
    split, chosen = _windows(config, windows, _NUM_TOKENS // size, _SEARCHED // size)
    if not chosen or max(window.ids.max() for window in chosen) >= lm.num_ids:
        return None
    openings = _openings(config, lm)
    special = lm.special_ids | {token_id for token_id in openings.values() if token_id is not None}
    separate = config.bos != "windows"
    losses = {
        token: _losses(lm, [_opened(window, token_id, separate, size) for window in chosen], special)
        for token, token_id in openings.items()
    }
    own = next(iter(losses.values()))
    if not sum(map(len, own)):
        return None
    return {
        "split": split,
        "num_windows": len(chosen),
        "window_size": size,
        "num_tokens": sum(map(len, own)),
        "losses": [{"token": token, **_compared(values, own)} for token, values in losses.items()],
    }


def opening_sentence(openings: Mapping[str, Any] | None) -> str | None:
    """Says what was measured, for people; None if nothing was."""
    if openings is None:
        return None
    own, *others = openings["losses"]
    loss = "not finite" if own["ce"] is None else f"{own['ce']:.3f} nats per token"
    text = "held-out" if openings["split"] == "heldout" else "training"
    differences = ", ".join(f"{_named(other['token'])} {_difference(other)}" for other in others)
    return (
        f"with {_named(own['token'])} as BOS the model's loss is {loss} on {openings['num_tokens']:,} {text} tokens "
        f"in windows of {openings['window_size']}; with {differences}"
    )


def _named(token: str | None) -> str:
    return "no token" if token is None else token


def _difference(loss: Mapping[str, Any]) -> str:
    error = loss["standard_error"]
    if loss["difference"] is None:
        return "not finite"
    return f"{loss['difference']:+.3f}{'' if error is None else f' ±{2 * error:.3f}'}"


def _openings(config: HarvestConfig, lm: LanguageModel) -> dict[str | None, int | None]:
    """Returns ids by token: the harvest's own opening, then the tokenizer's BOS and EOS, and what else may be one."""
    tokenizer = lm.tokenizer
    flagged = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    separators = [tokenizer.get_vocab().get(token) for token in _SEPARATORS]
    ids = [None if config.bos == "none" else lm.bos_id, None, tokenizer.bos_token_id, tokenizer.eos_token_id]
    ids += [token_id for token_id in separators if token_id in flagged]
    own, *others = dict.fromkeys(token_id for token_id in ids if token_id is None or token_id < lm.num_ids)
    others.sort(key=lambda token_id: token_id is None)
    return {
        None if token_id is None else str(tokenizer.convert_ids_to_tokens(token_id)): token_id
        for token_id in (own, *others)
    }


def _windows(
    config: HarvestConfig, windows: Iterator[tuple[Split, Window]], count: int, searched: int
) -> tuple[Split, list[Window]]:
    """Returns the first held-out windows, or training windows where there are none."""
    by_split: dict[Split, list[Window]] = {"heldout": [], "train": []}
    wanted: Split = "heldout" if config.heldout_share else "train"
    for split, window in islice(windows, max(count, searched)):
        by_split[split].append(window)
        if len(by_split[wanted]) == count:
            break
    split = wanted if by_split[wanted] else "train"
    return split, by_split[split][:count]


def _opened(window: Window, token_id: int | None, separate: bool, size: int) -> np.ndarray:
    """Puts a token before a window's text, and before each document in it; (at most `size`,) ids.

    All openings get the same text: as much as fits with them.
    """
    starts = np.flatnonzero(np.diff(window.documents, prepend=-1)) if separate else np.array([0])
    text = window.ids[: size - len(starts)]
    if token_id is None:
        return text
    parts = np.split(text, starts[(starts > 0) & (starts < len(text))])
    # A document that begins with the token gets no second one.
    return np.concatenate([[token_id, *part[np.isin(part[:1], token_id).sum() :]] for part in parts])


def _losses(lm: LanguageModel, sequences: Sequence[np.ndarray], special: frozenset[int]) -> list[torch.Tensor]:
    """Returns the losses of each sequence; as many go through the model at once as make up one of the longest."""
    per_pass = max(1, _LONGEST_WINDOW // max(map(len, sequences)))
    starts = range(0, len(sequences), per_pass)
    return [loss for start in starts for loss in _of_a_pass(lm, sequences[start : start + per_pass], special)]


@torch.no_grad()
def _of_a_pass(lm: LanguageModel, sequences: Sequence[np.ndarray], special: frozenset[int]) -> Iterator[torch.Tensor]:
    """Yields -log p of each sequence's ordinary tokens but the first, (num_scored,) float64 on the CPU."""
    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence  # the model is causal, so what follows does not matter
    all_logits = lm.model(input_ids=torch.from_numpy(ids).to(lm.model.device), use_cache=False).logits
    for logits, sequence in zip(all_logits, sequences, strict=True):
        scored = torch.from_numpy(np.flatnonzero(keep_mask(sequence, special))[1:])
        targets = torch.from_numpy(sequence.astype(np.int64))[scored]
        parts = zip(torch.split(scored - 1, _CHUNK), torch.split(targets, _CHUNK), strict=True)
        losses = [
            cross_entropy(logits[places.to(logits.device)].float(), chunk.to(logits.device), reduction="none")
            for places, chunk in parts
        ]
        yield torch.cat(losses).double().cpu()


def _compared(values: list[torch.Tensor], own: list[torch.Tensor]) -> dict[str, float | None]:
    """Compares losses, one tensor per window, with those of the harvest's own opening."""
    gaps = torch.stack([(mine - theirs).mean() for mine, theirs in zip(values, own, strict=True) if len(mine)])
    figures = {
        "ce": torch.cat(values).mean(),
        "difference": (torch.cat(values) - torch.cat(own)).mean(),
        "standard_error": gaps.std() / len(gaps) ** 0.5 if len(gaps) > 1 else torch.tensor(torch.nan),
    }
    return {name: round(float(value), 4) if torch.isfinite(value) else None for name, value in figures.items()}

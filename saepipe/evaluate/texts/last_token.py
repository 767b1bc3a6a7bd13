"""Activations of the last token of each text, which has read all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.captured_texts import captured_texts, tokenize


def last_token_work(texts: Work, context_size: int) -> Work:
    """Returns the work that `last_token_activations` needs.

    Args:
        texts: the work that decides the texts.
        context_size: positions per text, BOS included; a longer text keeps its end.
    """
    return Work("last_token", {"texts": {"kind": texts.kind, **texts.key}, "context_size": context_size})


def last_token_activations(testbed: Testbed, texts: Sequence[str], work: Work, name: str, progress: Progress) -> Tensor:
    """Returns what the encoder reads at the last ordinary token of each text, stored once.

    Args:
        testbed: the model and the hook.
        texts: the texts that `work` decides.
        work: see `last_token_work`.
        name: what the user calls the texts.
        progress: advanced as the model runs.

    Returns:
        (num_texts, d_in) in the model's dtype.

    Raises:
        ConfigError: if a text has no ordinary token.
    """

    def run_model() -> Content:
        lm = testbed.language_model
        tokenized = tokenize(lm, texts, work.key["context_size"], name, keep_end=True)
        x = torch.empty(len(texts), testbed.row_width, dtype=lm.model.dtype)
        for index, captured in captured_texts(testbed, tokenized, name, progress):
            x[index] = captured[int(np.flatnonzero(tokenized.keep[index])[-1])]
        return Content({"x": x})

    x, _ = testbed.split(testbed.kept_work.get(work.kind, work.key, run_model).tensors["x"])
    assert len(x) == len(texts), "the work does not decide the texts"
    return x

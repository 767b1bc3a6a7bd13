"""The embedded default: a tiny trained Gemma-2, its tokenizer, and the generated, labelled text that it learned from.

`MODEL_DIR` is an ordinary checkpoint folder; `documents()` is the corpus. No network is needed.
"""

from __future__ import annotations

from pathlib import Path

from saepipe.data.toy.corpus import (
    CATEGORIES,
    GENDERS,
    KINDS,
    PROFESSIONS,
    SENTIMENTS,
    Document,
    Kind,
    document,
    documents,
)
from saepipe.data.toy.words import ASKED_WORDS, CITIES, SPELLED_ONLY_WORDS, WORDS, City

MODEL_DIR = Path(__file__).parent / "model"
"""A `Gemma2ForCausalLM` checkpoint with its tokenizer, for `from_pretrained(MODEL_DIR)`."""

CONFIGS = Path(__file__).parent / "configs"
"""Harvest and training configs of `saepipe demo`."""

HELDOUT_SHARE = 0.1
"""The model was never trained on documents whose `heldout_score(text)` is below this."""

__all__ = [
    "ASKED_WORDS",
    "CATEGORIES",
    "CITIES",
    "CONFIGS",
    "GENDERS",
    "HELDOUT_SHARE",
    "KINDS",
    "MODEL_DIR",
    "PROFESSIONS",
    "SENTIMENTS",
    "SPELLED_ONLY_WORDS",
    "WORDS",
    "City",
    "Document",
    "Kind",
    "document",
    "documents",
]

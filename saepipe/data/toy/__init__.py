"""The embedded default: a tiny trained Gemma-2, its tokenizer, and the generated, labelled text it learned from.

`MODEL_DIR` is an ordinary checkpoint folder; `documents()` is the corpus. Nothing here needs a network.
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
"""The harvest and the training that `saepipe demo` runs."""

HELDOUT_SHARE = 0.1
"""Documents with `heldout_score(text)` below this were never trained on."""

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

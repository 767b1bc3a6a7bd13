"""Testbeds of a small model and held-out contexts that are made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Gemma2ForCausalLM

from helpers.by_hand import StoredHeldout
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.model_config import ModelConfig

HOOK = "blocks.1.hook_resid_post"
VOCAB, D_IN = 50, 16


def make_testbed(model: Gemma2ForCausalLM, heldout: StoredHeldout, batch_size: int, folder: Path) -> Testbed:
    model_id = {"id": "tiny", "weights": "w"}
    attributes = {"config": {"dataset": {"source": "by hand"}}, "model": model_id}
    cache: Any = SimpleNamespace(
        path=Path("cache"), fingerprint="c" * 64, identity="c" * 64, heldout=heldout, attributes=attributes
    )
    tokenizer: Any = None
    lm = LanguageModel(model, tokenizer, ModelConfig(dtype="float32"))
    kept_work = KeptWork(folder, model_id)
    return Testbed(cache, HOOK, lambda: lm, kept_work, batch_size, torch.device("cpu"))

"""The toy model at one of its hooks, with kept work of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saepipe.data.cache.cache import Cache
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.evaluate.model.testbed import Testbed
from saepipe.harvest.model import LanguageModel

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def toy(toy_cache: Path) -> LanguageModel:
    return load_model_of(Cache.open(toy_cache), EvaluateConfig(device="cpu"))


@pytest.fixture
def toy_testbed(toy: LanguageModel, toy_cache: Path, tmp_path: Path) -> Testbed:
    kept_work = KeptWork(tmp_path, {"model": "toy"})
    return Testbed(Cache.open(toy_cache), HOOK, lambda: toy, kept_work, 2, torch.device("cpu"))

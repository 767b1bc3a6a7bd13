"""A small random Gemma-2, held-out contexts captured from it, and SAEs made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from helpers.by_hand import LinearSAE, StoredHeldout
from helpers.chromium import open_browser
from helpers.made_results import write_run
from helpers.made_testbeds import D_IN, HOOK, VOCAB, make_testbed
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BOS, NUM_CONTEXTS, SEQ = 2, 10, 20


@pytest.fixture(scope="session")
def model() -> Gemma2ForCausalLM:
    """Returns a model whose predictions differ between positions; its sliding window is shorter than a context."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=D_IN,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=6,
        initializer_range=0.3,
        attn_implementation="eager",
        bos_token_id=BOS,
    )
    return Gemma2ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def heldout(model: Gemma2ForCausalLM) -> StoredHeldout:
    """Returns windows that start with BOS; documents of uneven length are separated by BOS and span windows."""
    rng = np.random.default_rng(0)
    contexts = rng.integers(3, VOCAB, (NUM_CONTEXTS, SEQ)).astype(np.int32)
    contexts[:, 0] = BOS
    likely = rng.random(contexts.shape) < 0.5
    for position in range(1, SEQ):  # half of the text is as the model expects, or ablation would do no harm
        ids = torch.from_numpy(contexts[:, :position]).long()
        expected = model(ids).logits[:, -1, 3:].argmax(-1).numpy() + 3
        contexts[likely[:, position], position] = expected[likely[:, position]]
    contexts[rng.random(contexts.shape) < 0.1] = BOS
    contexts[-1, 0] = 5  # the masks must not rely on a window's first token being special
    documents = 100 + 3 * np.cumsum((contexts == BOS).reshape(-1)).reshape(contexts.shape)
    x = capture(model, torch.from_numpy(contexts).long(), [HookPoint.parse(HOOK)])[HOOK]
    return StoredHeldout(contexts, documents, contexts != BOS, x.bfloat16())


@pytest.fixture
def testbed(model: Gemma2ForCausalLM, heldout: StoredHeldout, tmp_path: Path) -> Testbed:
    return make_testbed(model, heldout, 4, tmp_path / "artifacts")


@pytest.fixture
def make_sae() -> type[LinearSAE]:
    return LinearSAE


@pytest.fixture
def random_sae() -> LinearSAE:
    """Returns 24 ReLU latents, the last of which is dead and has a zero decoder row."""
    rng = torch.Generator().manual_seed(3)
    W_enc, W_dec = torch.randn(D_IN, 24, generator=rng) / 4, torch.randn(24, D_IN, generator=rng) / 4
    b_enc = torch.randn(24, generator=rng) / 4
    b_enc[-1], W_dec[-1] = -1e6, 0.0
    return LinearSAE(W_enc, W_dec, b_enc, torch.randn(D_IN, generator=rng) / 4)


@pytest.fixture
def testbed_of(model: Gemma2ForCausalLM, heldout: StoredHeldout, tmp_path: Path):
    """Returns a builder of testbeds by batch size, each with kept work of its own."""
    return lambda batch_size: make_testbed(model, heldout, batch_size, tmp_path / str(batch_size))


@pytest.fixture
def subject_of():
    """Returns a function that turns an SAE into the subject of an evaluation."""

    def make(sae: nn.Module) -> Subject:
        run: Any = SimpleNamespace(variant="by-hand", seed=0)
        return Subject(run, sae, {})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Returns a writer of runs whose variants differ in `weight` alone."""

    def make(variant: str, seed: int = 0, weight: float = 1.0, study: str = ".", **keys: Any) -> Path:
        folder = tmp_path / study / variant / f"seed-{seed}"
        return write_run(folder, penalties=[{"name": "l1", "weight": weight}], **keys)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The one browser of a test process: playwright allows no second one beside it."""
    with open_browser() as browser:
        yield browser

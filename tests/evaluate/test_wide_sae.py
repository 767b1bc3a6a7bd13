"""Passes over tokens at d_sae 65,536, under a limit of memory that no array of tokens x d_sae would fit in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2ForCausalLM

from helpers.by_hand import StoredHeldout
from helpers.made_testbeds import D_IN, HOOK, VOCAB, make_testbed
from helpers.memory_limit import address_space
from helpers.random_runs import random_params
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.features.active import TokenRows
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import Chunk
from saepipe.evaluate.features.gather_stores import StoreBuilder
from saepipe.evaluate.metrics.absorption.ranking import encode_words
from saepipe.evaluate.metrics.core.accumulate import FixedAccumulator
from saepipe.evaluate.metrics.core.model_losses import model_losses
from saepipe.evaluate.metrics.geometry.joint_firing import PairCounter
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.pooled import TextActivations, pooled_latents
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.relu import ReLU

D_SAE, CONTEXTS, SEQ = 65_536, 32, 128
LIMIT = 448 * 2**20
"""Less than half of the GiB of (4096, 65536) float32."""

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def contexts() -> np.ndarray:
    return np.random.default_rng(0).integers(3, VOCAB, (CONTEXTS, SEQ)).astype(np.int32)


@pytest.fixture(scope="module")
def x(model: Gemma2ForCausalLM, contexts: np.ndarray) -> torch.Tensor:
    """Returns the activations, (CONTEXTS, SEQ, D_IN)."""
    return capture(model, torch.from_numpy(contexts).long(), [HookPoint.parse(HOOK)])[HOOK].bfloat16()


@pytest.fixture(scope="module")
def wide(x: torch.Tensor) -> Subject:
    """Returns an SAE of whose latents ten are active on a token, on average."""
    params = random_params(ReLU(d_sae=D_SAE), D_IN, 0, 0.0)
    some = x[:, :8].flatten(0, 1).float()
    largest = (some @ params["W_enc"]).flatten().topk(10 * len(some)).values
    params |= {"b_enc": -largest[-1].expand(D_SAE), "b_dec": torch.zeros(D_IN)}
    run: Any = SimpleNamespace(variant="wide", seed=0)
    return Subject(run, SAE(ReLU(d_sae=D_SAE), params, {}), {})


@pytest.fixture(scope="module")
def active(wide: Subject, x: torch.Tensor) -> torch.Tensor:
    """Returns how many tokens of each context each latent is active on, (CONTEXTS, D_SAE)."""
    dense = wide.sae.W_enc, wide.sae.b_enc
    return torch.stack([torch.ones(SEQ) @ (part.float() @ dense[0] + dense[1] > 0).float() for part in x])


@pytest.fixture
def testbed(model: Gemma2ForCausalLM, contexts: np.ndarray, x: torch.Tensor, tmp_path: Path) -> Testbed:
    """Returns all contexts as one batch."""
    documents = np.repeat(np.arange(CONTEXTS), SEQ).reshape(contexts.shape)
    heldout = StoredHeldout(contexts, documents, np.ones_like(contexts, dtype=bool), x)
    return make_testbed(model, heldout, CONTEXTS, tmp_path)


Pass = Callable[[], float]
"""Returns how many activations are not 0; of `sparse_probing`, how many of their means over a text."""


def core(wide: Subject, testbed: Testbed, x: torch.Tensor) -> Pass:
    accumulator = FixedAccumulator(wide, model_losses(testbed, CONTEXTS, Silent()), CONTEXTS)

    def measure() -> float:
        for batch in testbed.batches(CONTEXTS):
            with testbed.upper_layers() as upper_layers:
                accumulator.add(batch, upper_layers(batch.ids, batch.target), upper_layers)
        return accumulator.sums.sae.total("l0")

    return measure


def geometry(wide: Subject, testbed: Testbed, x: torch.Tensor) -> Pass:
    pairs = torch.arange(256), torch.arange(256) + 1
    counter = PairCounter(wide, *pairs, CONTEXTS)

    def measure() -> float:
        for batch in testbed.batches(CONTEXTS):
            counter.add(batch)
        return round(counter.density.sum() * counter.num_tokens)

    return measure


def sparse_probing(wide: Subject, testbed: Testbed, x: torch.Tensor) -> Pass:
    texts = TextActivations(x.flatten(0, 1), torch.arange(CONTEXTS + 1) * SEQ, torch.zeros(CONTEXTS, dtype=torch.int64))
    return lambda: int((pooled_latents(wide, texts) > 0).sum())


def absorption(wide: Subject, testbed: Testbed, x: torch.Tensor) -> Pass:
    return lambda: encode_words(wide, x.flatten(0, 1)).nnz


def features(wide: Subject, testbed: Testbed, x: torch.Tensor) -> Pass:
    context, position = (part.ravel() for part in np.indices((CONTEXTS, SEQ)))
    surroundings = np.arange(context.size)
    tokens = TokenRows(Chunk(x.flatten(0, 1), context, position), surroundings, SEQ, 0, CPU)
    builder = StoreBuilder(wide, Features(num_top=2, num_quantiles=1, per_quantile=2, window=8), 8, CPU)

    def measure() -> float:
        builder.add(tokens)
        return int(builder.statistics.num_active.sum())

    return measure


@pytest.mark.parametrize("make", [core, geometry, sparse_probing, absorption, features])
def test_no_pass_holds_an_array_of_tokens_by_latents(
    make: Callable[..., Pass], wide: Subject, testbed: Testbed, x: torch.Tensor, active: torch.Tensor
) -> None:
    measure = make(wide, testbed, x)
    with address_space(LIMIT), torch.no_grad():
        measured = measure()
    expected = (active > 0).sum() if make is sparse_probing else active.sum()
    assert measured == pytest.approx(float(expected), rel=1e-3)  # some are 0 but for rounding


def test_an_array_of_tokens_by_latents_does_not_fit(wide: Subject, x: torch.Tensor) -> None:
    with address_space(LIMIT), pytest.raises(RuntimeError, match="can't allocate memory"):
        wide.sae.encode(x.flatten(0, 1).float())

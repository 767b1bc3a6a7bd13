"""RAVEL beside SAEBench 0.6.0's MDBM on the same activations: where the two definitions meet, so do the numbers.

Its module hook expects the tuples that decoder layers gave before transformers 5, and finds layers of two families by
name, so both are stood in for here; the mask, its training and its scores are SAEBench's own code.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.known_places import D_IN
from saepipe.evaluate.metrics.ravel.interchange import changes_of_acts, interchange
from saepipe.evaluate.metrics.ravel.latent_mask import MaskTraining, learn_mask, swap_latents
from saepipe.evaluate.metrics.ravel.pair_inputs import PairInputs
from saepipe.evaluate.metrics.ravel.swap_scores import SCORES, entity_counts, estimates, swap_scores

pytestmark = pytest.mark.interop

EPOCHS, LR = 8, 0.05
LANGUAGE = 1


@pytest.fixture
def mdbm() -> ModuleType:
    reason = "sae-bench is not installed: `pip install --no-deps sae-bench==0.6.0 tabulate` beside the extra [interop]"
    return pytest.importorskip("sae_bench.evals.ravel.mdbm", reason=reason)


class Layer:
    """A decoder layer as SAEBench's hooks expect it: its output is a tuple."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def register_forward_hook(self, hook: Any) -> Any:
        def of_tuple(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return hook(module, inputs, (output.clone(),))[0]

        return self._layer.register_forward_hook(of_tuple)


def of_one_token(inputs: PairInputs, *, test: bool) -> Tensor:
    """Returns the pairs of one attribute whose target is one token: the loss of SAEBench is of the first alone."""
    rows = inputs.select(LANGUAGE, test=test)
    return rows[inputs.target_offsets.diff()[rows] == 1]


def adopted(sae: nn.Module) -> Any:
    """Returns an SAE with the config that MDBM reads."""
    cfg = SimpleNamespace(hook_layer=0, d_sae=len(sae.W_dec))
    return SimpleNamespace(cfg=cfg, encode=sae.encode, decode=sae.decode)


def mdbm_batch(inputs: PairInputs, rows: Tensor) -> tuple[Any, ...]:
    """Returns pairs as SAEBench's loader gives them, padded on the left; `base_pred` differs from a cause's target."""
    batch = inputs.batch(rows)
    length = batch.ids.shape[1]
    is_prompt = (batch.labels != -100).flip(1).cumsum(1).flip(1) > 0
    shifts = length - is_prompt.sum(1)
    order = (torch.arange(length) - shifts[:, None]) % length
    encoding = {"input_ids": batch.ids.gather(1, order), "attention_mask": is_prompt.gather(1, order).long()}
    targets = batch.labels.amax(1)
    base_pred = torch.where(inputs.is_cause[rows], torch.full_like(targets, -1), targets)
    return encoding, batch.x_source, batch.positions + shifts, None, base_pred, targets, None, None


@pytest.fixture
def theirs(mdbm: ModuleType, deep_testbed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns SAEBench's module over the world's model; what it takes for source prompts are sources' activations."""
    model = deep_testbed.language_model.model
    activations = mdbm.activation_collection
    monkeypatch.setattr(activations, "get_module", lambda model, layer: Layer(model.model.layers[layer]))
    monkeypatch.setattr(activations, "get_layer_activations", lambda model, layer, x_source, positions: x_source)
    tokenizer, config = (
        SimpleNamespace(decode=str),
        SimpleNamespace(num_epochs=EPOCHS, learning_rate=LR, llm_batch_size=8),
    )
    return SimpleNamespace(module=mdbm, model=model, tokenizer=tokenizer, config=config)


def test_mask_and_scores_of_an_sae_without_error_are_theirs(
    theirs: Any, deep_testbed: Any, inputs: PairInputs, make_sae: Any, subject_of: Any
) -> None:
    """Each epoch is one batch, so that no order of pairs matters."""
    directions = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=torch.Generator().manual_seed(2)))[0]
    both = torch.cat([directions, -directions])
    sae = make_sae(both.T.contiguous(), both)
    train, test = (of_one_token(inputs, test=test) for test in (False, True))
    loader = [mdbm_batch(inputs, train)]
    learned = theirs.module.train_mdbm(theirs.model, theirs.tokenizer, theirs.config, adopted(sae), loader, loader)
    expected = theirs.module.get_validation_loss(learned, [mdbm_batch(inputs, test)])[2:]

    training = MaskTraining(LR, EPOCHS, len(train), 0)
    with deep_testbed.upper_layers() as upper_layers:
        mask = learn_mask(subject_of(sae), upper_layers, inputs, train, training, lambda num: None)
        reached = swap_latents(subject_of(sae), upper_layers, inputs, test, mask, 8).numpy()
    assert mask.tolist() == (learned.binary_mask > 0).tolist()
    assert 0 < int(mask.sum()) < len(mask)
    bases, sources = inputs.base_entity[test].numpy(), inputs.source_entity[test].numpy()
    ones = np.ones_like(entity_counts(np.unique(bases), int(max(bases.max(), sources.max())) + 1, [0]))
    scores = swap_scores(reached, inputs.is_cause[test].numpy(), bases, sources, ones)
    figures = estimates(scores)
    assert [figures[key].value for key in SCORES[1:]] == pytest.approx(expected)
    assert 0 < min(expected) < 1


@torch.no_grad()
def test_their_write_lacks_the_reconstruction_error(
    theirs: Any, inputs: PairInputs, random_sae: Any, subject_of: Any
) -> None:
    """Asked to add the error, which no setting of theirs does, it writes what ours writes."""
    batch = inputs.batch(of_one_token(inputs, test=True))
    module = theirs.module.MDBM(theirs.model, theirs.tokenizer, theirs.config, adopted(random_sae))
    module.binary_mask.copy_(torch.randn(24, generator=torch.Generator().manual_seed(0)))
    mask = (module.binary_mask > 0).float()
    changes = changes_of_acts(subject_of(random_sae), batch.x_base, batch.x_source)
    ours = interchange(batch.x, batch.positions, mask * changes, random_sae.W_dec)

    def written(add_error: bool) -> Tensor:
        hook = module.create_intervention_hook(batch.x_source, batch.positions, add_error=add_error)
        return hook(None, None, (batch.x.float().clone(),))[0]

    torch.testing.assert_close(written(True), ours)
    error = batch.x_base - random_sae.decode(random_sae.encode(batch.x_base))
    at_entity = torch.arange(len(batch.x)), batch.positions
    torch.testing.assert_close(written(False)[at_entity], (ours[at_entity] - error))
    assert error.norm() > batch.x_base.norm() / 10


def test_a_cause_whose_labels_share_a_token_is_isolation_to_them(mdbm: ModuleType) -> None:
    """`new land` and `new coast` begin alike: they count the pair as isolation, and any `new` as right."""
    logits = torch.eye(3)[[2, 2]]
    cause, isolation, num_cause, num_isolation = mdbm.get_cause_isolation_score_estimates(
        logits, torch.tensor([2, 2]), torch.tensor([2, 1])
    )
    assert (cause, isolation, num_cause, num_isolation) == (1.0, 1.0, 1, 1)

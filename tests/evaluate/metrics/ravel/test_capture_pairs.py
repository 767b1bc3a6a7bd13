"""Inputs of the pairs against the whole model, run on each text alone."""

from __future__ import annotations

import torch

from helpers.plain_interchange import target_logits
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.ravel.known_prompts import find_known_prompts, known_prompts_work
from saepipe.evaluate.metrics.ravel.swap_pairs import sample_pairs
from saepipe.evaluate.metrics.ravel.teacher_forcing import UNLABELLED


@torch.no_grad()
def test_a_batch_holds_the_texts_and_activations_of_its_pairs(metric, deep_testbed, inputs) -> None:
    model = deep_testbed.language_model.model
    ravel = metric()
    (config,) = ravel.entity_classes
    known = find_known_prompts(deep_testbed, config, known_prompts_work(config), Silent())
    pairs, _ = sample_pairs(known, 2, ravel._sampling)
    assert len(pairs) == len(inputs)
    for batch in inputs.batches(torch.arange(len(pairs)), 7):
        for index, row in enumerate(batch.rows.tolist()):
            base, source, target = pairs[row].base, pairs[row].source, pairs[row].target
            text = torch.tensor([*base.ids, *target[:-1]])
            x = model(text[None], output_hidden_states=True).hidden_states[1][0]
            x_source = model(torch.tensor([source.ids]), output_hidden_states=True).hidden_states[1][0, source.position]
            assert batch.ids[index, : len(text)].tolist() == text.tolist()
            torch.testing.assert_close(batch.x[index, : len(text)], x)
            torch.testing.assert_close(batch.x_base[index], x[base.position])
            torch.testing.assert_close(batch.x_source[index], x_source)
            assert batch.labels[index, len(base.ids) - 1 : len(text)].tolist() == list(target)
            assert int((batch.labels[index] != UNLABELLED).sum()) == len(target)


@torch.no_grad()
def test_the_whole_swap_equals_that_of_a_plain_hook(deep_testbed, inputs, make_sae) -> None:
    """An SAE whose latents are the dimensions of x, without a ReLU, swaps the whole activation."""
    identity = make_sae(torch.eye(16), torch.eye(16), relu=False)
    for row in torch.cat([inputs.select(attribute, test=True) for attribute in (0, 1)]).tolist():
        logits, target = target_logits(deep_testbed.language_model.model, identity, inputs, row, torch.ones(16))
        assert bool(inputs.swapped[row]) == bool((logits.argmax(-1) == target).all())

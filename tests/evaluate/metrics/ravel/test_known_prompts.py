"""Which prompts the model answers correctly, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace

import torch

from helpers.known_places import made_model
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.ravel.entities import read_entity_class
from saepipe.evaluate.metrics.ravel.entity_prompts import make_prompts
from saepipe.evaluate.metrics.ravel.known_prompts import find_known_prompts, known_prompts_work


def test_the_model_is_asked_every_prompt_and_the_right_ones_are_kept(metric, testbed, lm) -> None:
    (config,) = metric().entity_classes
    work = known_prompts_work(config)
    known = find_known_prompts(testbed, config, work, Silent())
    assert known.num_asked == [72, 72]
    assert (known.num_right(0), known.accuracy(0)) == (72, 1)
    assert known.num_entities == 36
    assert {prompt.spaced for prompt in known.prompts} == {True}
    for prompt in known.prompts:
        text = lm.tokenizer.decode(prompt.ids[prompt.position])
        assert text == f"e{prompt.entity}"


@torch.no_grad()
def test_a_prompt_is_known_if_greedy_decoding_writes_its_label(metric, testbed, lm) -> None:
    """The model does not tell two countries apart, so that it is wrong about some places."""
    (config,) = metric().entity_classes
    model = made_model()
    model.lm_head.weight[lm.tokenizer.convert_tokens_to_ids("south"), 0] = 1.5
    confused = replace(lm, model=model)
    known = find_known_prompts(replace(testbed, load=lambda: confused), config, known_prompts_work(config), Silent())
    expected = []
    for prompt in make_prompts(read_entity_class(config, config.key()), confused):
        ids = list(prompt.ids)
        for _ in prompt.label:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if tuple(ids[len(prompt.ids) :]) == prompt.label:
            expected.append(prompt)
    assert known.prompts == expected
    assert known.num_right(0) == 72 - 18

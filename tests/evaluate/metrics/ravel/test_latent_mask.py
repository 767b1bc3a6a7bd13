"""The learned mask, and the answers with it, against a plain module hook on the whole model."""

from __future__ import annotations

import torch

from helpers.plain_interchange import target_logits
from saepipe.evaluate.metrics.ravel.latent_mask import MaskTraining, _epochs, learn_mask, swap_latents


@torch.no_grad()
def test_answers_equal_those_of_a_plain_hook(deep_testbed, inputs, random_sae, subject_of) -> None:
    selected = torch.arange(24) % 2 == 0
    rows = inputs.select(1, test=True)
    with deep_testbed.upper_layers() as upper_layers:
        reached = swap_latents(subject_of(random_sae), upper_layers, inputs, rows, selected, batch_size=7)
    expected = []
    for row in rows.tolist():
        logits, target = target_logits(deep_testbed.language_model.model, random_sae, inputs, row, selected.float())
        expected.append(bool((logits.argmax(-1) == target).all()))
    assert reached.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_the_mask_is_that_of_an_independent_training(deep_testbed, inputs, random_sae, subject_of) -> None:
    """Two epochs of Adam on the logits of the mask, each pair run alone through the whole model with a plain hook."""
    training = MaskTraining(learning_rate=0.05, num_epochs=2, batch_size=16, seed=3)
    rows = inputs.select(0, test=False)
    told: list[int] = []
    with deep_testbed.upper_layers() as upper_layers:
        selected = learn_mask(subject_of(random_sae), upper_layers, inputs, rows, training, told.append)
    assert sum(told) == 2 * len(rows)

    model = deep_testbed.language_model.model
    theta = torch.nn.Parameter(torch.zeros(24))
    adam = torch.optim.Adam([theta], lr=0.05)
    steps = _epochs(rows, training)
    for step, batch in enumerate(steps):
        temperature = 10 ** (-4 * step / (len(steps) - 1))
        adam.zero_grad()
        for row in batch.tolist():
            logits, target = target_logits(model, random_sae, inputs, row, torch.sigmoid(theta / temperature))
            (torch.nn.functional.cross_entropy(logits, target, reduction="sum") / len(batch)).backward()
        adam.step()
    assert selected.tolist() == (theta > 0).tolist()
    assert 0 < int(selected.sum()) < 24


def test_each_epoch_has_every_pair_once_in_another_order() -> None:
    rows = torch.arange(10, 20)
    steps = _epochs(rows, MaskTraining(learning_rate=1e-3, num_epochs=2, batch_size=4, seed=0))
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = torch.cat(steps[:3]), torch.cat(steps[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == rows.tolist()
    assert first.tolist() != second.tolist()

"""One pass against greedy decoding, token by token, and the loss against its definition."""

from __future__ import annotations

import pytest
import torch

from helpers.known_places import made_model
from saepipe.evaluate.metrics.ravel.teacher_forcing import UNLABELLED, continues, forced, labels_for, target_loss
from saepipe.evaluate.model.padded_batches import padded


@pytest.fixture(scope="module")
def model():
    """Returns the model of the world with random weights, so that its continuations are not constant."""
    model = made_model()
    torch.manual_seed(3)
    for weight in model.parameters():
        weight.normal_(std=0.7)
    return model


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(2, 40, (4 + n % 3,), generator=generator).tolist() for n in range(12)]


def greedy(model, prompt: list[int], num_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    for _ in range(num_tokens):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize("num_tokens", [1, 2, 3])
@torch.no_grad()
def test_a_target_is_reached_exactly_if_greedy_decoding_writes_it(model, prompts, num_tokens) -> None:
    targets = [greedy(model, prompt, num_tokens) for prompt in prompts]
    for row in range(6):  # half of the targets have one wrong token, the first, the last or one between
        targets[row][row % num_tokens] = (targets[row][row % num_tokens] + 1) % 40
    texts = [forced(*pair) for pair in zip(prompts, targets, strict=True)]
    labels = labels_for(torch.tensor([len(text) for text in texts]), [torch.tensor(target) for target in targets])
    reached = continues(model(padded(texts)).logits, labels)
    assert reached.tolist() == [False] * 6 + [True] * 6


@torch.no_grad()
def test_the_loss_is_the_negative_log_probability_of_the_target(model, prompts) -> None:
    targets = [[5], [6, 7], [8, 9, 10]]
    expected = 0.0
    for prompt, target in zip(prompts, targets, strict=False):
        for index, token in enumerate(target):
            logits = model(torch.tensor([[*prompt, *target[:index]]])).logits[0, -1]
            expected -= float(logits.log_softmax(-1)[token]) / len(targets)
    texts = [forced(*pair) for pair in zip(prompts[:3], targets, strict=True)]
    labels = labels_for(torch.tensor([len(text) for text in texts]), [torch.tensor(target) for target in targets])
    assert float(target_loss(model(padded(texts)).logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_labels_stand_at_the_end_of_each_text() -> None:
    labels = labels_for(torch.tensor([2, 4]), [torch.tensor([7]), torch.tensor([8, 9])])
    assert labels.tolist() == [[UNLABELLED, 7, UNLABELLED, UNLABELLED], [UNLABELLED, UNLABELLED, 8, 9]]
    assert forced([1, 2, 3], [8, 9]).tolist() == [1, 2, 3, 8]

"""Activations of last tokens against the model run on each text alone."""

from __future__ import annotations

import pytest
import torch

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.last_token import last_token_activations, last_token_work
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel

HOOK = "blocks.1.hook_resid_post"
TEXTS = ["The nurse works.", "A long story about a cat and its kettle, told at night. " * 4, "No"]


@pytest.mark.parametrize("context_size", [9, 200])
def test_each_text_alone_ends_in_the_same_activation(
    toy_testbed: Testbed, toy: LanguageModel, context_size: int
) -> None:
    """A text longer than the context loses its start; a special token at the end of a text is not its last token."""
    texts = [*TEXTS, f"The nurse works.{toy.tokenizer.bos_token}"]
    work = last_token_work(Work("by hand", {}), context_size)
    x = last_token_activations(toy_testbed, texts, work, "four", Silent())
    for index, text in enumerate(TEXTS):
        body = toy.tokenizer(text, add_special_tokens=False)["input_ids"][-(context_size - 1) :]
        ids = torch.tensor([[toy.bos_id, *body]])
        alone = capture(toy.model, ids, [HookPoint.parse(HOOK)])[HOOK][0, -1]
        torch.testing.assert_close(x[index], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x[3], x[0], atol=1e-5, rtol=1e-5)
    assert toy_testbed.passes.lower == 4
    last_token_activations(toy_testbed, texts, work, "four", Silent())
    assert toy_testbed.passes.lower == 4


def test_a_text_without_an_ordinary_token_is_an_error(toy_testbed: Testbed) -> None:
    with pytest.raises(ConfigError, match="text 1 of two has no ordinary token: ''"):
        last_token_activations(toy_testbed, ["yes", ""], last_token_work(Work("x", {}), 40), "two", Silent())

"""The intervention against the reference's steps, hooked into the whole model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.unlearning.answered_questions import ask_questions, questions_work
from saepipe.evaluate.metrics.unlearning.intervention import Clamp
from saepipe.evaluate.metrics.unlearning.questions import answered_letters
from saepipe.evaluate.metrics.unlearning.settings_grid import ClampSetting, _clamp_key, _clamped_x, run_grid
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.topk import TopK

D_IN, D_SAE = 128, 40
SELECTED = torch.tensor([17, 3, 30])
MULTIPLIER = 4.0


@pytest.fixture(params=["relu", "topk"])
def sae(request: pytest.FixtureRequest, make_sae) -> nn.Module:
    """A random SAE with decoder rows of uneven norm, one of them 0."""
    generator = torch.Generator().manual_seed(5)
    W_enc = torch.randn(D_IN, D_SAE, generator=generator) / 8
    W_dec = torch.randn(D_SAE, D_IN, generator=generator) / 8 * torch.rand(D_SAE, 1, generator=generator)
    W_dec[30] = 0.0
    b_enc, b_dec = torch.randn(D_SAE, generator=generator), torch.randn(D_IN, generator=generator)
    if request.param == "relu":
        return make_sae(W_enc, W_dec, b_enc, b_dec)
    params = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    return SAE(TopK(d_sae=D_SAE, k=20), params, "blocks.1.hook_resid_post")


@pytest.fixture
def words(testbed, metric):
    questions = metric().retain_questions[0]
    work = questions_work(questions, 1, "\n green, {question} has the first letter:", 0)
    return ask_questions(testbed, questions, work, Silent())


def hooked_logits(lm, sae, ids: torch.Tensor, clamped_to: torch.Tensor, unaffected: torch.Tensor) -> torch.Tensor:
    """Returns next-token logits (vocab,) of one prompt, with the intervention step by step as in SAEBench.

    Args:
        lm: the whole model.
        sae: all of its latents are encoded and decoded.
        ids: (seq,).
        clamped_to: (num_selected,) values.
        unaffected: (seq,) bool: positions whose latents are set to 0 first.
    """

    def intervene(_module, _args, output):
        x = output if isinstance(output, torch.Tensor) else output[0]
        acts = sae.encode(x)
        acts[:, unaffected] = 0.0
        error = x - sae.decode(acts)
        acts[..., SELECTED] = torch.where(acts[..., SELECTED] > 0, clamped_to, acts[..., SELECTED])
        changed = sae.decode(acts) + error
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    handle = lm.model.model.layers[1].register_forward_hook(intervene)
    try:
        return lm.model(ids[None]).logits[0, -1]
    finally:
        handle.remove()


@pytest.mark.parametrize("mode", ["fixed", "reference"])
@torch.no_grad()
def test_against_the_whole_model_with_a_hook(lm, testbed, words, subject_of, sae, mode) -> None:
    setting = ClampSetting(0.01, 3, Clamp(SELECTED, MULTIPLIER, mode))
    norms = sae.W_dec[SELECTED].norm(dim=1)
    clamped_to = -MULTIPLIER / norms.where(norms > 0, 1.0) if mode == "fixed" else torch.full((3,), -MULTIPLIER)
    expected, changes = [], []
    for row in range(len(words)):
        ids = words.ids[words.offsets[row] : words.offsets[row + 1]]
        unaffected = torch.tensor([token in lm.special_ids for token in ids.tolist()])
        assert unaffected.tolist() == [True] + [False] * (len(ids) - 1)
        expected.append(hooked_logits(lm, sae, ids, clamped_to, unaffected))
        changes.append(float((expected[-1] - lm.model(ids[None]).logits[0, -1]).abs().max()))
    assert min(changes) > 0.01

    actual = torch.empty(len(words), len(lm.tokenizer))
    with testbed.upper_layers() as upper_layers:
        for prompts in words.batches(5):
            ((_, x),) = _clamped_x(subject_of(sae), prompts, {_clamp_key(setting): setting.clamp})
            actual[prompts.rows] = upper_layers(prompts.ids, x)[torch.arange(len(prompts.rows)), prompts.last]
    assert torch.allclose(actual, torch.stack(expected), atol=1e-5)

    ((outcome,),) = run_grid(testbed, [subject_of(sae)], [[setting]], [words, words], Silent())
    right = answered_letters(torch.stack(expected), words.letters) == words.answers
    assert outcome.forget.tolist() == outcome.retain.tolist() == right.tolist()


def test_mode_fixed_spares_special_tokens_mode_reference_only_the_first(testbed, words, subject_of, sae) -> None:
    prompts = next(words.batches(2))
    prompts.keep[:, 3] = False  # like a token of the chat template
    x = {}
    for mode in ("fixed", "reference"):
        clamp = Clamp(torch.arange(D_SAE), MULTIPLIER, mode)
        ((_, x[mode]),) = _clamped_x(subject_of(sae), prompts, {((), 0.0): clamp})
    moved = {mode: (x[mode] != prompts.x).any(dim=-1) for mode in x}
    assert not moved["fixed"][:, [0, 3]].any()
    assert moved["fixed"][:, [1, 2, 4]].all()
    assert not moved["reference"][:, 0].any()
    assert moved["reference"][:, 1:].all()


def test_only_active_latents_are_clamped() -> None:
    W_dec = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    x, acts = torch.tensor([[1.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [0.0, 0.0]])
    latents = torch.arange(2)
    assert Clamp(latents, 5.0, "fixed")(x, acts, W_dec).tolist() == [[1 - 5 - 0.5 * 2, 1], [1, 1]]
    assert Clamp(latents, 5.0, "reference")(x, acts, W_dec).tolist() == [[1 - 5 * 2 - 0.5 * 2, 1], [1, 1]]

"""Every clamp setting on every SAE, and the questions that the model still answers correctly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.unlearning.answered_questions import AnsweredQuestions, PromptBatch
from saepipe.evaluate.metrics.unlearning.intervention import Clamp
from saepipe.evaluate.metrics.unlearning.questions import answered_letters
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate, proportion

MIN_RETAINED = 0.99
"""Share of the retained questions that must stay right."""

ClampKey = tuple[tuple[int, ...], float]
"""Latents and multiplier, which decide the model's answers."""


@dataclass(frozen=True)
class ClampSetting:
    """One intervention, and how its latents were selected."""

    retain_threshold: float
    num_latents: int
    """number asked for; the clamp has fewer if fewer pass the threshold"""
    clamp: Clamp


@dataclass(frozen=True)
class ClampOutcome:
    """Answers under one setting to the questions that the clean model answers correctly."""

    setting: ClampSetting
    forget: np.ndarray
    """(num_forget,) bool: still right"""
    retain: np.ndarray
    """(num_retain,) bool: still right, all sets one after the other"""

    @property
    def retains_enough(self) -> bool:
        return bool(self.retain.mean() >= MIN_RETAINED)


@torch.no_grad()
def run_grid(
    testbed: Testbed,
    subjects: Sequence[Subject],
    settings: Sequence[Sequence[ClampSetting]],
    sets: Sequence[AnsweredQuestions],
    progress: Progress,
) -> list[list[ClampOutcome]]:
    """Returns outcomes by subject and setting. `sets[0]` holds the questions to forget, the others those to retain.

    The model runs from the hook upward. Settings of a subject that clamp the same latents to the same value share
    their passes, and a setting without latents needs none.
    """
    answers = torch.cat([questions.answers for questions in sets])
    right = [{_clamp_key(s): torch.ones(len(answers), dtype=torch.bool) for s in by_subject} for by_subject in settings]
    clamps = [{_clamp_key(s): s.clamp for s in by_subject if len(s.clamp.latents)} for by_subject in settings]
    progress.start(f"unlearning at {testbed.hook} (SAEs: {len(subjects)})", len(answers), "questions")
    try:
        with testbed.upper_layers() as upper_layers:
            for prompts, letters in _all_prompts(sets, testbed.batch_size):
                batch = torch.arange(len(prompts.rows))
                for subject, correct, subject_clamps in zip(subjects, right, clamps, strict=True):
                    for key, x in _clamped_x(subject, prompts, subject_clamps):
                        logits = upper_layers(prompts.ids, x)[batch, prompts.last]
                        correct[key][prompts.rows] = answered_letters(logits, letters).cpu() == answers[prompts.rows]
                progress.advance(len(prompts.rows))
    finally:
        progress.finish()
    return [
        [ClampOutcome(s, *np.split(correct[_clamp_key(s)].numpy(), [len(sets[0])])) for s in by_subject]
        for by_subject, correct in zip(settings, right, strict=True)
    ]


def _all_prompts(sets: Sequence[AnsweredQuestions], batch_size: int) -> Iterator[tuple[PromptBatch, Tensor]]:
    """Yields the prompts of all sets, rows numbered through, each batch with the tokens that count as letters."""
    first = 0
    for questions in sets:
        for prompts in questions.batches(batch_size):
            yield replace(prompts, rows=prompts.rows + first), questions.letters
        first += len(questions)


def _clamp_key(setting: ClampSetting) -> ClampKey:
    return tuple(setting.clamp.latents.tolist()), setting.clamp.multiplier


def _clamped_x(
    subject: Subject, prompts: PromptBatch, clamps: Mapping[ClampKey, Clamp]
) -> Iterator[tuple[ClampKey, Tensor]]:
    """Yields x at the hook (batch, seq, d_in) under each intervention; the SAE encodes once."""
    if not clamps:
        return
    latents = torch.unique(torch.cat([clamp.latents for clamp in clamps.values()]))
    W_dec = subject.sae.W_dec.detach()[latents.to(subject.sae.W_dec.device)].float()
    x = prompts.x.to(W_dec.device)
    acts = subject.encode(x.flatten(0, 1), latents.to(x.device)).view(*x.shape[:2], -1)
    for key, clamp in clamps.items():
        columns = torch.searchsorted(latents, clamp.latents).to(x.device)
        affected = acts[..., columns] * _affected_positions(prompts, clamp.mode)[..., None].to(x.device)
        yield key, clamp(x, affected, W_dec[columns])


def _affected_positions(prompts: PromptBatch, mode: Mode) -> Tensor:
    """Returns (batch, seq) bool: in mode fixed the ordinary tokens, as in training; in reference all but the first."""
    if mode == "fixed":
        return prompts.keep
    return (torch.arange(prompts.ids.shape[1]) > 0).expand_as(prompts.ids)


def score(outcomes: Sequence[ClampOutcome], mode: Mode) -> tuple[Estimate, ClampOutcome | None]:
    """Returns 1 - the smallest share of right forget answers over the settings that keep 99 % of the retained ones.

    fixed: settings without latents do not count, and without any other setting there is no score. reference: a setting
    without latents counts as forgetting nothing, and the score is 0 if no setting keeps 99 %.

    Returns:
        The score and its setting's outcome. The interval is Wilson's over the forget questions at that setting; it
        ignores that another sample of questions might choose another setting.
    """
    if len(outcomes[0].forget) == 0 or len(outcomes[0].retain) == 0:
        name = "forget" if len(outcomes[0].forget) == 0 else "retain"
        return Estimate(None, reason=f"the clean model answers no {name} question correctly in all orders"), None
    eligible = [outcome for outcome in outcomes if len(outcome.setting.clamp.latents) or mode == "reference"]
    retaining = [outcome for outcome in eligible if outcome.retains_enough]
    if not eligible:
        return Estimate(None, reason="no latent is active on the forget text and below a retain threshold"), None
    if not retaining:
        reason = f"no setting keeps {MIN_RETAINED:.0%} of the retained answers right"
        return (Estimate(0.0) if mode == "reference" else Estimate(None, reason=reason)), None
    best = min(retaining, key=lambda outcome: float(outcome.forget.mean()))
    return complement(proportion(best.forget)), best


def complement(share: Estimate) -> Estimate:
    """Returns 1 - a share, with its interval."""
    if share.value is None or share.low is None or share.high is None:
        return share
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low)

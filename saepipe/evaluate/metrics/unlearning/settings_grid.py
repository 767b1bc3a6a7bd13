"""Every setting of the intervention on every SAE, and how many questions the model still answers correctly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.unlearning.answered_questions import Asked, Prompts
from saepipe.evaluate.metrics.unlearning.intervention import Clamp
from saepipe.evaluate.metrics.unlearning.questions import chosen
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate, proportion

KEPT = 0.99
"""Share of the retained questions that must stay right."""


Same = tuple[tuple[int, ...], float]
"""Latents and multiplier: what decides the model's answers."""


@dataclass(frozen=True)
class Setting:
    """One intervention, and how its latents were chosen."""

    retain_threshold: float
    num_latents: int
    """as asked for; fewer, where fewer survive the threshold"""
    clamp: Clamp


@dataclass(frozen=True)
class Outcome:
    """What a setting leaves of the questions that the clean model answers correctly."""

    setting: Setting
    forget: np.ndarray
    """(num_forget,) bool: still right"""
    retain: np.ndarray
    """(num_retain,) bool: still right, all sets one after the other"""

    @property
    def keeps(self) -> bool:
        return bool(self.retain.mean() >= KEPT)


@torch.no_grad()
def sweep(
    testbed: Testbed,
    subjects: Sequence[Subject],
    settings: Sequence[Sequence[Setting]],
    sets: Sequence[Asked],
    progress: Progress,
) -> list[list[Outcome]]:
    """Outcomes by subject and setting. `sets[0]` is about what is to be forgotten, the others about the rest.

    The model runs from the hook upward. Settings of a subject that clamp the same latents to the same value share
    their passes, and a setting without latents needs none.
    """
    answers = torch.cat([one.answers for one in sets])
    right = [{_same(setting): torch.ones(len(answers), dtype=torch.bool) for setting in some} for some in settings]
    clamps = [{_same(setting): setting.clamp for setting in some if len(setting.clamp.latents)} for some in settings]
    progress.start(f"unlearning at {testbed.hook} (SAEs: {len(subjects)})", len(answers), "questions")
    try:
        with testbed.resumed() as resume:
            for prompts, letters in _all_prompts(sets, testbed.batch_size):
                at = torch.arange(len(prompts.rows))
                for subject, marks, chosen_clamps in zip(subjects, right, clamps, strict=True):
                    for same, x in _clamped(subject, prompts, chosen_clamps):
                        logits = resume(prompts.ids, x)[at, prompts.last]
                        marks[same][prompts.rows] = chosen(logits, letters).cpu() == answers[prompts.rows]
                progress.advance(len(prompts.rows))
    finally:
        progress.finish()
    return [
        [Outcome(setting, *np.split(marks[_same(setting)].numpy(), [len(sets[0])])) for setting in some]
        for some, marks in zip(settings, right, strict=True)
    ]


def _all_prompts(sets: Sequence[Asked], batch_size: int) -> Iterator[tuple[Prompts, Tensor]]:
    """The prompts of all sets, their rows counted through, each with the tokens that count as letters."""
    first = 0
    for one in sets:
        for prompts in one.batches(batch_size):
            yield replace(prompts, rows=prompts.rows + first), one.letters
        first += len(one)


def _same(setting: Setting) -> Same:
    return tuple(setting.clamp.latents.tolist()), setting.clamp.multiplier


def _clamped(subject: Subject, prompts: Prompts, clamps: Mapping[Same, Clamp]) -> Iterator[tuple[Same, Tensor]]:
    """x at the hook (batch, seq, d_in) under each intervention; the SAE encodes once."""
    if not clamps:
        return
    latents = torch.unique(torch.cat([clamp.latents for clamp in clamps.values()]))
    W_dec = subject.sae.W_dec.detach()[latents.to(subject.sae.W_dec.device)].float()
    x = prompts.x.to(W_dec.device)
    acts = subject.encode(x.flatten(0, 1), latents.to(x.device)).view(*x.shape[:2], -1)
    for same, clamp in clamps.items():
        columns = torch.searchsorted(latents, clamp.latents).to(x.device)
        reached = acts[..., columns] * _acts_where(prompts, clamp.mode)[..., None].to(x.device)
        yield same, clamp(x, reached, W_dec[columns])


def _acts_where(prompts: Prompts, mode: Mode) -> Tensor:
    """(batch, seq) bool: fixed: at ordinary tokens, as in training; reference: everywhere but at the first position."""
    if mode == "fixed":
        return prompts.keep
    return (torch.arange(prompts.ids.shape[1]) > 0).expand_as(prompts.ids)


def score(outcomes: Sequence[Outcome], mode: Mode) -> tuple[Estimate, Outcome | None]:
    """1 - the smallest share of right forget answers over the settings that keep 99 % of the retained ones.

    fixed: a setting without latents does not count, and where none is left there is no score. reference: such a
    setting counts as one that forgets nothing, and 0 is the score where none is left.

    Returns:
        The score, with Wilson's interval over the forget questions at the setting that gave it (that another draw of
        questions might choose another setting is not in it), and that setting's outcome.
    """
    if len(outcomes[0].forget) == 0 or len(outcomes[0].retain) == 0:
        which = "forget" if len(outcomes[0].forget) == 0 else "retain"
        return Estimate(None, reason=f"the clean model answers no {which} question correctly under all orders"), None
    able = [outcome for outcome in outcomes if len(outcome.setting.clamp.latents) or mode == "reference"]
    kept = [outcome for outcome in able if outcome.keeps]
    if not able:
        return Estimate(None, reason="no latent fires on the forget text and stays below a retain threshold"), None
    if not kept:
        reason = f"no setting keeps {KEPT:.0%} of the retained answers right"
        return (Estimate(0.0) if mode == "reference" else Estimate(None, reason=reason)), None
    best = min(kept, key=lambda outcome: float(outcome.forget.mean()))
    return complement(proportion(best.forget)), best


def complement(share: Estimate) -> Estimate:
    """1 - a share, with its interval."""
    if share.value is None or share.low is None or share.high is None:
        return share
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low)

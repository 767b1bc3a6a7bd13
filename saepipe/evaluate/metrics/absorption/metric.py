"""Absorption (first letter): do latents for a letter stay silent where a more special latent says it too?

Stages, formulas and where the reference (SAEBench 0.6.0) differs: docs/metrics/absorption.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field

from saepipe.data.config.base import Count
from saepipe.data.folders.health import Finding
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.absorption.feature_splits import Split, Words, splits, splits_as_reference
from saepipe.evaluate.metrics.absorption.letters import Gate, Letter, by_letter, figures, score
from saepipe.evaluate.metrics.absorption.material import Material, Recipe, labels, material
from saepipe.evaluate.metrics.absorption.prompts import TEMPLATE
from saepipe.evaluate.metrics.absorption.ranking import MAX_LATENTS, word_latents
from saepipe.evaluate.metrics.base import Measurement, Metric, Shown
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import two_stage


def _has_word(template: str) -> str:
    if template.count("{word}") != 1 or {"{", "}"} & set(template.replace("{word}", "")):
        raise ValueError("it must hold {word} once, and no other braces")
    return template


class Absorption(Metric):
    """Words and probes of the model once for all SAEs; each SAE encodes the words' activations once."""

    name: Literal["absorption"] = "absorption"
    words: Path | None = None
    """A file with a word a line, to ask only those of the tokenizer's vocabulary; null: all of it, and of the embedded
    model the words that its text spells."""
    max_words: Count | None = Field(default=None, ge=100)
    """Draw so many, letters in turn; null: all. SAEBench takes all."""
    template: Annotated[str, AfterValidator(_has_word)] = TEMPLATE
    """A line of the prompt, up to the letter."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """Of the words; absorption is looked for in those."""
    f1_jump_threshold: float = Field(default=0.03, ge=0)
    """A further latent belongs to the letter if the F1 rises by more than this."""
    min_GT_probe_f1: float = Field(default=0.6, ge=0, lt=1)  # noqa: N815 - the reference's name
    """Letters whose probe is not better are not measurable."""
    min_split_f1: float = Field(default=0.4, ge=0, lt=1)
    """Letters whose own latents are not better are not measurable. (Not in mode reference.)"""
    min_true_positives: int = Field(default=5, ge=1)
    """Letters with fewer words that the probe finds are not measurable. (1 in mode reference.)"""
    min_feats_for_eval: int = Field(default=20, ge=1)
    """With fewer letters (or not all, where there are fewer) of a good probe, figures carry a warning; none are given
    in mode reference."""
    k_sparse_probe_l1_decay: float = Field(default=0.01, ge=0)
    """Of mode reference's ranking of latents."""
    seed: int = 42
    """Of words, prompts and probes: the same for all SAEs."""
    eval_type_id: ClassVar[str] = "absorption_first_letter"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, Shown]] = {
        "mean_full_absorption_score": Shown("full absorption", "lower"),
        "mean_absorption_fraction_score": Shown("absorption fraction", "lower"),
        "mean_num_split_features": Shown("latents a letter"),
        "first_letter_split_f1": Shown("F1 of letters' latents", "higher"),
        "first_letter_num_letters": Shown("letters measured"),
        "first_letter_probe_f1": Shown("F1 of letters' probes", of_model=True),
    }

    def works(self, testbed: Testbed) -> list[Work]:
        return list(self._recipe.works(testbed))

    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        found = material(testbed, self._recipe, progress)
        progress.start(f"absorption at {testbed.hook}", len(subjects), "SAEs")
        try:
            measured = []
            for subject in subjects:
                with torch.no_grad():
                    train = Words(word_latents(subject, found.x_train), labels(found.train).numpy())
                    test = Words(word_latents(subject, found.x_test), labels(found.test).numpy())
                split = self._splits(train, test, found, testbed.mode)
                with torch.no_grad():
                    letters = score(subject, found, split, self._gate(testbed.mode), testbed.mode)
                measured.append(self._measurement(letters, found, testbed))
                progress.advance(1)
        finally:
            progress.finish()
        return measured

    @property
    def _recipe(self) -> Recipe:
        return Recipe(self.words, self.max_words, self.template, self.test_share, self.seed)

    def _gate(self, mode: Mode) -> Gate:
        if mode == "reference":
            return Gate(self.min_GT_probe_f1, min_split_f1=-1.0, min_true_positives=1)
        return Gate(self.min_GT_probe_f1, self.min_split_f1, self.min_true_positives)

    def _splits(self, train: Words, test: Words, found: Material, mode: Mode) -> list[Split]:
        if mode == "reference":
            return splits_as_reference(train, test, self.f1_jump_threshold, self.k_sparse_probe_l1_decay, self.seed)
        return splits(train, [word.stem for word in found.train], test, self.f1_jump_threshold)

    def _measurement(self, letters: Sequence[Letter], found: Material, testbed: Testbed) -> Measurement:
        measurable = [letter for letter in letters if letter.reason is None]
        findings = list(self._findings(found, testbed.mode))
        if testbed.mode == "reference" and findings:
            counted, why_none = [], "SAEBench gives no result: " + findings[0].message
        else:
            counted, why_none = measurable, "no letter is measurable"
        return Measurement(
            metrics={"mean": figures(counted, self.seed, why_none)},
            extra={
                "first_letter_probe_f1": float(found.f1[found.present].mean()),
                "first_letter_split_f1": two_stage(
                    [np.array([letter.split.f1]) for letter in letters if letter.in_model],
                    self.seed,
                    undefined="no letter has a good probe and enough words",
                ),
                "first_letter_num_letters": len(measurable),
            },
            details=[letter.detail for letter in letters],
            more={"letters": [letter.more for letter in letters]},
            parts=by_letter(counted),
            findings=findings,
            counts={
                "train_words": len(found.train),
                "test_words": len(found.test),
                "true_positives": int(found.detected.sum()),
                "letters": len(measurable),
            },
            warnings=list(_warnings(letters)),
            eval_config=self._eval_config(found, testbed),
        )

    def _findings(self, found: Material, mode: Mode) -> Iterator[Finding]:
        """H10: the model does not tell enough letters at the hook, so an SAE cannot either."""
        present = int(found.present.sum())
        wanted = self.min_feats_for_eval if mode == "reference" else min(self.min_feats_for_eval, present)
        good = int((found.f1 > self.min_GT_probe_f1).sum())
        if good < wanted:
            message = (
                f"the probes of {good} of {present} first letters have an F1 above {self.min_GT_probe_f1:g} "
                f"(wanted {wanted}): the model hardly tells them at the hook"
            )
            yield Finding("H10", "error", message, self.name)

    def _eval_config(self, found: Material, testbed: Testbed) -> dict[str, Any]:
        return {
            "model_name": testbed.cache.attributes["config"]["model"]["model"],
            "random_seed": self.seed,
            "f1_jump_threshold": self.f1_jump_threshold,
            "max_k_value": MAX_LATENTS,
            "prompt_template": self.template,
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": str(found.x_test.dtype).removeprefix("torch."),
            "k_sparse_probe_l1_decay": self.k_sparse_probe_l1_decay,
            "k_sparse_probe_batch_size": 4096,
            "k_sparse_probe_num_epochs": 50,
            "min_GT_probe_f1": self.min_GT_probe_f1,
            "min_feats_for_eval": self.min_feats_for_eval,
        }


def _warnings(letters: Sequence[Letter]) -> Iterator[str]:
    missing: dict[str, list[str]] = defaultdict(list)
    for letter in letters:
        if letter.reason:
            missing[letter.reason.partition(":")[0]].append(letter.letter)
    if missing:
        why = "; ".join(f"{reason}: {' '.join(those)}" for reason, those in missing.items())
        yield f"absorption is not measurable at {sum(map(len, missing.values()))} of {len(letters)} letters ({why})"

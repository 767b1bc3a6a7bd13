"""Absorption (first letter): do a letter's latents stay inactive where a more specific latent carries the letter too?

Stages, formulas and differences from the reference (SAEBench 0.6.0): docs/metrics/absorption.md.
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
from saepipe.data.config.bounds import Seed
from saepipe.data.folders.health import Finding
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import ABSORPTION_FIGURES, FigureSpec
from saepipe.evaluate.metrics.absorption.feature_splits import FeatureSplit, WordActs, find_splits, reference_splits
from saepipe.evaluate.metrics.absorption.letters import (
    Gate,
    LetterResult,
    figures,
    means_by_letter,
    score_letters,
    unscored_letters,
)
from saepipe.evaluate.metrics.absorption.material import Material, MaterialSettings, labels, load_material
from saepipe.evaluate.metrics.absorption.prompts import TEMPLATE, NotMeasurable
from saepipe.evaluate.metrics.absorption.ranking import MAX_LATENTS, encode_words
from saepipe.evaluate.metrics.base import Figure, Measurement, Metric
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.reconstruction import MAX_HELD, encoding_bytes
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate, two_stage

_MOST_WORDS = 300
"""Words of a letter that the probe detects, as a guess of what is encoded at once."""


def _validate_template(template: str) -> str:
    if template.count("{word}") != 1 or {"{", "}"} & set(template.replace("{word}", "")):
        raise ValueError("it must contain {word} exactly once, and no other braces")
    return template


class Absorption(Metric):
    """Settings of `absorption`. Words and probes are made once for all SAEs; each SAE encodes the words once."""

    name: Literal["absorption"] = "absorption"
    words: Path | None = None
    """File with one word per line, to use only these words of the tokenizer's vocabulary; null: all of it (for the
    embedded model, the words that its text spells)."""
    max_words: Count | None = Field(default=None, ge=100)
    """Number of words to sample, letter by letter in turn; null: all, as in SAEBench."""
    template: Annotated[str, AfterValidator(_validate_template)] = TEMPLATE
    """Line of the prompt, up to the letter."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of words for testing; absorption is measured on these."""
    f1_jump_threshold: float = Field(default=0.03, ge=0)
    """A further latent belongs to the letter if it raises the F1 by more than this."""
    min_GT_probe_f1: float = Field(default=0.6, ge=0, lt=1)  # noqa: N815 - the reference's name
    """A letter is measurable only if its probe's F1 is above this."""
    min_split_f1: float = Field(default=0.4, ge=0, lt=1)
    """A letter is measurable only if the F1 of its own latents is above this. (Not in mode reference.)"""
    min_true_positives: int = Field(default=5, ge=1)
    """A letter is measurable only if the probe detects at least this many of its words. (1 in mode reference.)"""
    min_feats_for_eval: int = Field(default=20, ge=1)
    """Number of letters (at most all there are) that need a good probe. With fewer, H10 is reported; mode reference
    then gives no figures."""
    k_sparse_probe_l1_decay: float = Field(default=0.01, ge=0)
    """L1 penalty of the latent ranking in mode reference."""
    seed: Seed = 42
    """Seed of words, prompts and probes, the same for all SAEs."""
    eval_type_id: ClassVar[str] = "absorption_first_letter"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = ABSORPTION_FIGURES

    def held_bytes(self, d_in: int, d_sae: int, testbed: Testbed) -> int:
        words = 4 * min(MAX_HELD, 2 * d_sae * _MOST_WORDS)
        return max(encoding_bytes(d_sae), words)

    def works(self, testbed: Testbed) -> list[Work]:
        return list(self._material_settings.works(testbed))

    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        try:
            material = load_material(testbed, self._material_settings, progress)
        except NotMeasurable as error:
            progress.say(f"absorption is not measurable: {error}")
            return [self._not_measurable(str(error), testbed) for _ in subjects]
        gate = self._gate(testbed.mode)
        letters = unscored_letters(material, gate)
        searched = [index for index, letter in enumerate(letters) if letter.in_model or testbed.mode == "reference"]
        if not searched:
            progress.say(f"absorption: no SAE is measured, since the model represents no letter at {testbed.written}")
            return [self._measurement(letters, material, testbed) for _ in subjects]
        progress.start(f"absorption at {testbed.hook}", len(subjects), "SAEs")
        try:
            measurements = []
            for subject in subjects:
                splits = self._find_splits(subject, material, searched, testbed.mode)
                with torch.no_grad():
                    letters = score_letters(subject, material, splits, gate, testbed.mode)
                measurements.append(self._measurement(letters, material, testbed))
                progress.advance(1)
        finally:
            progress.finish()
        return measurements

    @property
    def _material_settings(self) -> MaterialSettings:
        return MaterialSettings(self.words, self.max_words, self.template, self.test_share, self.seed)

    def _gate(self, mode: Mode) -> Gate:
        if mode == "reference":
            return Gate(self.min_GT_probe_f1, min_split_f1=-1.0, min_true_positives=1)
        return Gate(self.min_GT_probe_f1, self.min_split_f1, self.min_true_positives)

    def _find_splits(
        self, subject: Subject, material: Material, letters: Sequence[int], mode: Mode
    ) -> dict[int, FeatureSplit]:
        """Returns the own latents by letter; SAEBench always searches all letters."""
        with torch.no_grad():
            train = WordActs(encode_words(subject, material.x_train), labels(material.train).numpy())
            test = WordActs(encode_words(subject, material.x_test), labels(material.test).numpy())
        jump = self.f1_jump_threshold
        if mode == "reference":
            splits = reference_splits(train, test, jump, self.k_sparse_probe_l1_decay, self.seed)
        else:
            splits = find_splits(train, [word.stem for word in material.train], test, jump, letters)
        return dict(zip(letters, splits, strict=True))

    def _measurement(self, letters: Sequence[LetterResult], material: Material, testbed: Testbed) -> Measurement:
        measurable = [letter for letter in letters if letter.reason is None]
        findings = list(self._findings(material, testbed))
        if testbed.mode == "reference" and findings:
            averaged, undefined = [], "SAEBench gives no result: " + findings[0].message
        else:
            averaged, undefined = measurable, "no letter is measurable"
        return Measurement(
            metrics={"mean": figures(averaged, self.seed, undefined)},
            extra={
                "first_letter_probe_f1": _probe_f1(material),
                "first_letter_split_f1": two_stage(
                    [np.array([letter.split.f1]) for letter in letters if letter.in_model and letter.split],
                    self.seed,
                    undefined="no letter has a good probe and enough words",
                ),
                "first_letter_num_letters": len(measurable),
            },
            details=[letter.detail for letter in letters],
            more={"letters": [letter.more for letter in letters]},
            parts=means_by_letter(averaged),
            findings=findings,
            counts={
                "train_words": len(material.train),
                "test_words": len(material.test),
                "true_positives": int(material.true_positives.sum()),
                "letters": len(measurable),
            },
            warnings=list(_warnings(letters)),
            eval_config=self._eval_config(str(material.x_test.dtype), testbed),
        )

    def _not_measurable(self, reason: str, testbed: Testbed) -> Measurement:
        """Returns a result without figures, for a model that cannot be asked for first letters."""
        undefined = Estimate(None, reason=reason)
        return Measurement(
            metrics={"mean": figures([], self.seed, reason)},
            extra={
                "first_letter_probe_f1": undefined,
                "first_letter_split_f1": undefined,
                "first_letter_num_letters": 0,
            },
            more={"letters": []},
            counts={"train_words": 0, "test_words": 0, "true_positives": 0, "letters": 0},
            warnings=[f"absorption is not measurable: {reason}"],
            eval_config=self._eval_config(testbed.dtype, testbed),
        )

    def _findings(self, material: Material, testbed: Testbed) -> Iterator[Finding]:
        """Yields H10 if the model does not represent enough letters at the hook, since then no SAE can."""
        where = "hook" if testbed.target is None else f"target {testbed.target}"
        present = int(material.present.sum())
        required = self.min_feats_for_eval if testbed.mode == "reference" else min(self.min_feats_for_eval, present)
        good = int((material.f1 > self.min_GT_probe_f1).sum())
        if good < required:
            message = (
                f"the probes of {good} of {present} first letters have an F1 above {self.min_GT_probe_f1:g} "
                f"(required: {required}): the model barely represents first letters at the {where}"
            )
            yield Finding("H10", "error", message, self.name)

    def _eval_config(self, dtype: str, testbed: Testbed) -> dict[str, Any]:
        return {
            "model_name": testbed.cache.attributes["config"]["model"]["model"],
            "random_seed": self.seed,
            "f1_jump_threshold": self.f1_jump_threshold,
            "max_k_value": MAX_LATENTS,
            "prompt_template": self.template,
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": dtype.removeprefix("torch."),
            "k_sparse_probe_l1_decay": self.k_sparse_probe_l1_decay,
            "k_sparse_probe_batch_size": 4096,
            "k_sparse_probe_num_epochs": 50,
            "min_GT_probe_f1": self.min_GT_probe_f1,
            "min_feats_for_eval": self.min_feats_for_eval,
        }


def _probe_f1(material: Material) -> Figure:
    """Returns the mean F1 of the probes of the letters that can be tested."""
    if not material.present.any():
        return Estimate(None, reason="no letter has both a train word and a test word")
    return float(material.f1[material.present].mean())


def _warnings(letters: Sequence[LetterResult]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for letter in letters:
        if letter.reason:
            by_reason[letter.reason.partition(":")[0]].append(letter.letter)
    if by_reason:
        reasons = "; ".join(f"{reason}: {' '.join(names)}" for reason, names in by_reason.items())
        num_letters = sum(map(len, by_reason.values()))
        yield f"absorption is not measurable at {num_letters} of {len(letters)} letters ({reasons})"

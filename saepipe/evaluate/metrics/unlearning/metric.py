"""Unlearning: latents of one field are clamped, and the model answers questions about that field and others.

Formulas, masks and differences from the reference (SAEBench 0.6.0): docs/metrics/unlearning.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from saepipe.data.config.base import Count
from saepipe.data.config.bounds import Seed
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import UNLEARNING_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.unlearning.answered_questions import AnsweredQuestions, ask_questions, questions_work
from saepipe.evaluate.metrics.unlearning.corpora import Corpus, densities, token_blocks
from saepipe.evaluate.metrics.unlearning.intervention import Clamp
from saepipe.evaluate.metrics.unlearning.latent_selection import select_latents
from saepipe.evaluate.metrics.unlearning.questions import QuestionsConfig, check_template
from saepipe.evaluate.metrics.unlearning.settings_grid import ClampOutcome, ClampSetting, run_grid, score
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate, proportion
from saepipe.harvest.config import DatasetConfig


def _template(value: str) -> str:
    check_template(value)
    return value


def _mmlu(subset: str) -> QuestionsConfig:
    return QuestionsConfig(source="cais/mmlu", subset=subset, subject=subset.replace("_", " "))


class Unlearning(Metric):
    """Forgetting by clamping: two densities per SAE, then every clamp setting, the model run from the hook upward."""

    name: Literal["unlearning"] = "unlearning"
    forget: DatasetConfig = DatasetConfig(source="cais/wmdp-bio-forget-corpus")
    """Text on the field to forget. The default is gated: ask for access on its page."""
    retain: DatasetConfig = DatasetConfig(source="Salesforce/wikitext", subset="wikitext-2-raw-v1", split="test")
    """Any other text."""
    forget_questions: QuestionsConfig = QuestionsConfig(source="cais/wmdp", subset="wmdp-bio", subject="biology")
    retain_questions: tuple[QuestionsConfig, ...] = Field(
        default=(
            _mmlu("high_school_us_history"),
            _mmlu("college_computer_science"),
            _mmlu("high_school_geography"),
            _mmlu("human_aging"),
        ),
        min_length=1,
    )
    prompt: Annotated[str, AfterValidator(_template)] | None = None
    """Text with the slots {subject}, {question}, {A}, {B}, {C} and {D}; null: SAEBench's, through the tokenizer's chat
    template if it has one."""
    permutations: int = Field(default=24, ge=1, le=24)
    """Only questions that the clean model answers correctly in this many orders of their choices are asked."""
    retain_thresholds: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.001, 0.01), min_length=1)
    """Latents at least this dense on the retain text are left alone."""
    num_latents: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(10, 20), min_length=1)
    multipliers: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(25.0, 50.0, 100.0, 200.0), min_length=1)
    """Active latents are set to minus this, in units of a decoder row of norm 1."""
    num_windows: Count = Field(default=1024, gt=0)
    """Maximum number of windows of each text, and of documents sampled from the forget text."""
    context_size: int = Field(default=1024, ge=2, le=2**20)
    """Tokens per window."""
    seed: Seed = 42
    """Seed of the documents, the windows and the orders of choices, which are the same for all SAEs."""
    eval_type_id: ClassVar[str] = "unlearning"
    version: ClassVar[int] = 1
    shown: ClassVar[Mapping[str, FigureSpec]] = UNLEARNING_FIGURES

    def refuses(self, testbed: Testbed) -> str | None:
        if testbed.target is not None:
            return "it clamps latents at the hook that they read, and a transcoder's write at another"
        several = "it clamps latents at one hook, and a crosscoder has several"
        return several if testbed.is_of_crosscoders else super().refuses(testbed)

    def works(self, testbed: Testbed) -> list[Work]:
        corpora = [work for corpus in self._corpora(testbed.mode) for work in corpus.works(testbed)]
        return [*corpora, *(self._questions_work(config) for config in self._question_sets)]

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        works = [self._questions_work(config) for config in self._question_sets]  # fails early if a dataset is missing
        (forget, forget_tokens), (retain, retain_tokens) = (
            densities(subjects, token_blocks(testbed, corpus, progress)) for corpus in self._corpora(testbed.mode)
        )
        sets = [ask_questions(testbed, *pair, progress) for pair in zip(self._question_sets, works, strict=True)]
        settings = [self._settings(*pair, testbed.mode) for pair in zip(forget, retain, strict=True)]
        by_subject = run_grid(testbed, subjects, settings, sets, progress)
        counts = {
            "forget_tokens": forget_tokens,
            "retain_tokens": retain_tokens,
            "forget_questions": len(sets[0]),
            "retain_questions": sum(len(questions) for questions in sets[1:]),
        }
        return [self._measurement(outcomes, sets, counts, testbed) for outcomes in by_subject]

    @property
    def _question_sets(self) -> tuple[QuestionsConfig, ...]:
        return (self.forget_questions, *self.retain_questions)

    def _questions_work(self, config: QuestionsConfig) -> Work:
        return questions_work(config, self.permutations, self.prompt, self.seed)

    def _corpora(self, mode: Mode) -> tuple[Corpus, Corpus]:
        shared = (self.num_windows, self.context_size, self.seed, mode)
        return Corpus("forget", self.forget, self.num_windows, *shared), Corpus("retain", self.retain, None, *shared)

    def _settings(self, forget: torch.Tensor, retain: torch.Tensor, mode: Mode) -> list[ClampSetting]:
        return [
            ClampSetting(threshold, num, Clamp(select_latents(forget, retain, threshold, num, mode), multiplier, mode))
            for threshold, num, multiplier in product(self.retain_thresholds, self.num_latents, self.multipliers)
        ]

    def _measurement(
        self,
        outcomes: Sequence[ClampOutcome],
        sets: Sequence[AnsweredQuestions],
        counts: Mapping[str, int],
        testbed: Testbed,
    ) -> Measurement:
        estimate, best = score(outcomes, testbed.mode)
        return Measurement(
            metrics={"unlearning": {"unlearning_score": estimate}},
            extra={
                "unlearning_llm_forget_accuracy": _share_right(sets[:1]),
                "unlearning_llm_retain_accuracy": _share_right(sets[1:]),
            },
            more={
                "interventions": [_row(outcome, outcome is best) for outcome in outcomes],
                "questions": [
                    {"source": c.source, "subset": c.subset, "asked": questions.num_asked, "right": len(questions)}
                    for c, questions in zip(self._question_sets, sets, strict=True)
                ],
            },
            counts=dict(counts),
            warnings=self._warnings(outcomes, counts),
            eval_config=self._eval_config(testbed),
        )

    def _warnings(self, outcomes: Sequence[ClampOutcome], counts: Mapping[str, int]) -> list[str]:
        settings = [outcome.setting for outcome in outcomes]
        num_clamped = {(s.retain_threshold, s.num_latents): len(s.clamp.latents) for s in settings}
        warnings = [
            f"retain threshold {threshold:g} leaves {clamped} of the {num} latents asked for; only those are clamped"
            for (threshold, num), clamped in num_clamped.items()
            if clamped < num
        ]
        if 0 < counts["retain_questions"] < 100:
            warnings.append(
                f"with {counts['retain_questions']} retained questions, keeping 99 % right means losing none of them"
            )
        return warnings

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        model = testbed.language_model.config
        return {
            "random_seed": self.seed,
            "dataset_names": [questions.subset or questions.source for questions in self._question_sets],
            "intervention_method": "clamp_feature_activation",
            "retain_thresholds": list(self.retain_thresholds),
            "n_features_list": list(self.num_latents),
            "multipliers": list(self.multipliers),
            "dataset_size": self.num_windows,
            "seq_len": self.context_size,
            "target_metric": "correct",
            "model_name": model.model,
            "llm_batch_size": testbed.batch_size,
            "llm_dtype": model.dtype,
        }


def _share_right(sets: Sequence[AnsweredQuestions]) -> Estimate:
    """Returns the share of questions that the clean model answers correctly in all orders."""
    num_right, num_asked = sum(len(questions) for questions in sets), sum(questions.num_asked for questions in sets)
    return proportion(torch.arange(num_asked).numpy() < num_right, "there are no questions")


def _row(outcome: ClampOutcome, best: bool) -> dict[str, Any]:
    """Returns a setting as plain data; the intervals are evaluation noise, over questions."""
    setting, forget, retain = outcome.setting, proportion(outcome.forget), proportion(outcome.retain)
    return {
        "retain_threshold": setting.retain_threshold,
        "num_latents": setting.num_latents,
        "multiplier": setting.clamp.multiplier,
        "latents": setting.clamp.latents.tolist(),
        "forget_accuracy": forget.value,
        "forget_interval": [forget.low, forget.high],
        "retain_accuracy": retain.value,
        "retain_interval": [retain.low, retain.high],
        "gives_the_score": best,
    }

"""TPP, targeted probe perturbation: do the latents of one class carry that class and no other?

Formulas, masks and differences from the reference (SAEBench 0.6.0): docs/metrics/tpp_and_scr.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import TPP_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.concepts.outcome import Outcome, mean_score
from saepipe.evaluate.metrics.concepts.perturb import ablate_targets, accuracies, class_differences
from saepipe.evaluate.metrics.concepts.probe_setup import ProbeSetup, prepare_probes
from saepipe.evaluate.metrics.concepts.shared import SIZES, Perturbation
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.binary_questions import BinaryExamples, one_vs_rest
from saepipe.evaluate.texts.config import LabelledDatasetConfig, Part
from saepipe.evaluate.texts.known_datasets import KNOWN_DATASETS, Datasets, is_toy
from saepipe.evaluate.texts.pooled import activations_work, text_activations
from saepipe.evaluate.texts.sample import LabelledTexts
from saepipe.evaluate.texts.stored import labelled_texts, texts_work

SCORES = ("total_metric", "intended_diff_only", "unintended_diff_only")
ONE_VS_REST = "one against rest"
TOY = ("toy_profession", "toy_category")
REFERENCE = ("LabHC/bias_in_bios_class_set1", "canrager/amazon_reviews_mcauley_1and5")
KEYS = tuple(f"tpp_threshold_{n}_{score}" for n in SIZES for score in SCORES)


@dataclass(frozen=True)
class ProbedDataset:
    """A dataset with a question per class: does a text belong to the class or to another?"""

    name: str
    texts: LabelledTexts
    setup: ProbeSetup
    weights: torch.Tensor
    """(1 + num_resamples, num_test): bootstrap weights of the test texts"""
    clean: np.ndarray
    """(1 + num_resamples, num_classes): accuracies without ablation"""

    def signs(self, part: Part, generator: torch.Generator) -> torch.Tensor:
        """Samples new examples, as the reference does for each SAE and each accuracy: (num_classes, num_texts)."""
        num_texts = len(self.texts.rows_of(part))
        return torch.stack([examples.signs(num_texts) for examples in class_examples(self.texts, part, generator)])


class TPP(Perturbation):
    """Accuracy lost by a class's own probe and by the others. Texts, examples and probes are shared by all SAEs."""

    name: Literal["tpp"] = "tpp"
    datasets: Datasets | None = Field(default=None, min_length=1)
    """Settings, or names of known datasets; null: the toy's professions and categories if the model or the text is the
    toy's, else the reference's two."""
    eval_type_id: ClassVar[str] = "tpp"
    version: ClassVar[int] = 1
    toy_sizes: ClassVar[tuple[int, int]] = (400, 200)
    shown: ClassVar[Mapping[str, FigureSpec]] = TPP_FIGURES

    def works(self, testbed: Testbed) -> list[Work]:
        works = []
        for config in self._configs(testbed):
            texts = texts_work(config, self.sampling(config, testbed))
            works += [texts, activations_work(texts, self.context_size)]
            works.append(self.probes_work(texts, ONE_VS_REST, testbed))
        return works

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        outcomes: list[list[Outcome]] = [[] for _ in subjects]
        generators = [torch.Generator().manual_seed(self.seed) for _ in subjects]
        for config in self._configs(testbed):
            dataset = self._prepare(config, testbed, progress)
            progress.start(f"tpp on {dataset.name}", len(subjects), "SAEs")
            try:
                for subject, generator, of_subject in zip(subjects, generators, outcomes, strict=True):
                    of_subject.append(self._outcome(subject, dataset, testbed.mode, generator))
                    progress.advance(1)
            finally:
                progress.finish()
        return [self.measurement(of_subject, testbed, KEYS) for of_subject in outcomes]

    def _configs(self, testbed: Testbed) -> Sequence[LabelledDatasetConfig]:
        return self.datasets or [KNOWN_DATASETS[name] for name in (TOY if is_toy(testbed) else REFERENCE)]

    def _prepare(self, config: LabelledDatasetConfig, testbed: Testbed, progress: Progress) -> ProbedDataset:
        """Prepares all that does not depend on an SAE, or reads it if it is stored."""
        sampling = self.sampling(config, testbed)
        work = texts_work(config, sampling)
        texts = labelled_texts(testbed, config, sampling, work)
        captured = activations_work(work, self.context_size)
        activations = text_activations(testbed, texts.texts, captured, config.name, progress)
        probes = self.probes_work(work, ONE_VS_REST, testbed)
        setup = prepare_probes(testbed, probes, activations, texts.num_train, partial(class_examples, texts))
        weights = self.weights(setup.test.num_texts, testbed)
        clean = accuracies(setup.probes.logits(setup.test.pooled_target()), setup.probes.test_signs, weights)
        return ProbedDataset(config.name, texts, setup, weights, clean)

    def _outcome(self, subject: Subject, dataset: ProbedDataset, mode: Mode, generator: torch.Generator) -> Outcome:
        """Measures one SAE. Mode reference samples training examples, then test examples for each class and size."""
        setup, classes = dataset.setup, dataset.texts.classes
        train_signs, test_signs = setup.probes.train_signs, setup.probes.test_signs
        if mode == "reference":
            train_signs = dataset.signs("train", generator)
            test_signs = torch.stack(
                [torch.stack([dataset.signs("test", generator) for _ in self.n_values]) for _ in classes]
            )
        differences = class_differences(subject, setup.train, train_signs)
        ablated = ablate_targets(
            subject, setup, differences, targets=range(len(classes)), sizes=self.n_values, signed=True, mode=mode
        )
        by_class = tpp_scores(dataset.clean, accuracies(ablated.logits, test_signs, dataset.weights), self.n_values)
        return Outcome(
            dataset=dataset.name,
            name=f"{dataset.name}_tpp",
            scores={key: mean_score(scores[key] for scores in by_class) for key in by_class[0]},
            llm_scores={"tpp_llm_test_accuracy": dataset.clean.mean(-1)},
            clean_accuracies=dict(zip(classes, dataset.clean[0].tolist(), strict=True)),
            num_train=setup.num_train,
            num_test=setup.num_test,
            num_ablated=ablated.num_ablated.numpy(),
            latents=dict(zip(classes, ablated.latents, strict=True)),
            by_class={
                label: {key: float(score[0]) for key, score in scores.items()}
                for label, scores in zip(classes, by_class, strict=True)
            },
        )


def class_examples(texts: LabelledTexts, part: Part, generator: torch.Generator) -> Iterator[BinaryExamples]:
    """Yields examples of each class against the rest, sampled when they are asked for."""
    numbers = {label: number for number, label in enumerate(texts.classes)}
    labels = torch.tensor([numbers[row.label] for row in texts.rows_of(part)])
    for number in numbers.values():
        yield one_vs_rest(labels, number, generator)


def tpp_scores(clean: np.ndarray, ablated: np.ndarray, sizes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Returns, per ablated class, the drop in its own probe's accuracy, the others' mean drop, and the difference.

    Args:
        clean: (num_resamples, num_classes) accuracies.
        ablated: (num_classes, num_sizes, num_resamples, num_classes) accuracies, by ablated class.
        sizes: numbers of latents.

    Returns:
        By key, (num_resamples,) each.
    """
    lost = clean - ablated
    by_class = []
    for number, drop in enumerate(lost):
        intended = drop[..., number]
        unintended = np.delete(drop, number, axis=-1).mean(-1)
        rows = zip(sizes, intended - unintended, intended, unintended, strict=True)
        by_class.append(
            {f"tpp_threshold_{n}_{score}": value for n, *row in rows for score, value in zip(SCORES, row, strict=True)}
        )
    return by_class

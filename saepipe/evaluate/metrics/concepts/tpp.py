"""TPP, targeted probe perturbation: do the latents of one class carry that class, and no other?

Formulas, masks and where the reference (SAEBench 0.6.0) differs: docs/metrics/tpp_and_scr.md.
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
from saepipe.evaluate.metrics.base import Measurement, Shown
from saepipe.evaluate.metrics.concepts.outcome import Outcome, mean_of
from saepipe.evaluate.metrics.concepts.perturb import accuracies, class_differences, without_latents
from saepipe.evaluate.metrics.concepts.probe_setup import Bench, prepare
from saepipe.evaluate.metrics.concepts.shared import NOISY, SIZES, Perturbation
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.binary_questions import Examples, one_against_rest
from saepipe.evaluate.texts.config import LabelledConfig, Part
from saepipe.evaluate.texts.known_datasets import KNOWN, DataSets, is_toy
from saepipe.evaluate.texts.pooled import activations_work, text_activations
from saepipe.evaluate.texts.sample import LabelledTexts
from saepipe.evaluate.texts.stored import labelled_texts, work_of

WHAT = ("total_metric", "intended_diff_only", "unintended_diff_only")
ONE_AGAINST_REST = "one against rest"
TOY = ("toy_profession", "toy_category")
REFERENCE = ("LabHC/bias_in_bios_class_set1", "canrager/amazon_reviews_mcauley_1and5")
KEYS = tuple(f"tpp_threshold_{n}_{what}" for n in SIZES for what in WHAT)


@dataclass(frozen=True)
class Classes:
    """A data set with a question for each of its classes: is a text of it, or of another?"""

    name: str
    texts: LabelledTexts
    bench: Bench
    weights: torch.Tensor
    """(1 + draws, num_test): of the test texts in the bootstrap"""
    clean: np.ndarray
    """(1 + draws, num_classes): accuracies with all latents on"""

    def signs(self, part: Part, generator: torch.Generator) -> torch.Tensor:
        """(num_classes, num_texts) of examples drawn anew, as the reference does for each SAE and each accuracy."""
        return torch.stack([drawn.signs(len(self.texts.of(part))) for drawn in examples(self.texts, part, generator)])


class TPP(Perturbation):
    """Data sets outside, SAEs inside: texts, examples and probes are the model's work, done once for all."""

    name: Literal["tpp"] = "tpp"
    datasets: DataSets | None = Field(default=None, min_length=1)
    """Settings, or names of known ones; null: the toy's professions and categories where the model or the text is the
    toy's, else the reference's two."""
    eval_type_id: ClassVar[str] = "tpp"
    version: ClassVar[int] = 1
    toy_sizes: ClassVar[tuple[int, int]] = (400, 200)
    shown: ClassVar[Mapping[str, Shown]] = {
        "tpp_threshold_10_total_metric": Shown("TPP, 10 latents", "higher", noisy=NOISY),
        "tpp_threshold_50_total_metric": Shown("TPP, 50 latents", "higher", noisy=NOISY),
        "tpp_llm_test_accuracy": Shown("TPP, clean probes", of_model=True),
    }

    def works(self, testbed: Testbed) -> list[Work]:
        works = []
        for config in self._datasets(testbed):
            drawn = work_of(config, self.draw_of(config, testbed))
            works += [drawn, activations_work(drawn, self.context_size)]
            works.append(self.concepts_work(drawn, ONE_AGAINST_REST, testbed))
        return works

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        outcomes: list[list[Outcome]] = [[] for _ in subjects]
        generators = [torch.Generator().manual_seed(self.seed) for _ in subjects]
        for config in self._datasets(testbed):
            data = self._classes(config, testbed, progress)
            progress.start(f"tpp on {data.name}", len(subjects), "SAEs")
            try:
                for subject, generator, mine in zip(subjects, generators, outcomes, strict=True):
                    mine.append(self._outcome(subject, data, testbed.mode, generator))
                    progress.advance(1)
            finally:
                progress.finish()
        return [self.measurement(mine, testbed, KEYS) for mine in outcomes]

    def _datasets(self, testbed: Testbed) -> Sequence[LabelledConfig]:
        return self.datasets or [KNOWN[name] for name in (TOY if is_toy(testbed) else REFERENCE)]

    def _classes(self, config: LabelledConfig, testbed: Testbed, progress: Progress) -> Classes:
        """What does not depend on an SAE: stored, or made and stored."""
        how = self.draw_of(config, testbed)
        work = work_of(config, how)
        texts = labelled_texts(testbed, config, how, work)
        captured = activations_work(work, self.context_size)
        activations = text_activations(testbed, texts.texts, captured, config.name, progress)
        concepts = self.concepts_work(work, ONE_AGAINST_REST, testbed)
        bench = prepare(testbed, concepts, activations, texts.num_train, partial(examples, texts))
        weights = self.weights(bench.test.num_texts, testbed)
        clean = accuracies(bench.concepts.logits(bench.test.pooled()), bench.concepts.test_signs, weights)
        return Classes(config.name, texts, bench, weights, clean)

    def _outcome(self, subject: Subject, data: Classes, mode: Mode, generator: torch.Generator) -> Outcome:
        """Of one SAE. Mode reference draws training examples, then test examples for each class and size."""
        bench, classes = data.bench, data.texts.classes
        train_signs, test_signs = bench.concepts.train_signs, bench.concepts.test_signs
        if mode == "reference":
            train_signs = data.signs("train", generator)
            test_signs = torch.stack(
                [torch.stack([data.signs("test", generator) for _ in self.n_values]) for _ in classes]
            )
        differences = class_differences(subject, bench.train, train_signs)
        without = without_latents(
            subject, bench, differences, targets=range(len(classes)), sizes=self.n_values, signed=True, mode=mode
        )
        by_class = tpp(data.clean, accuracies(without.logits, test_signs, data.weights), self.n_values)
        return Outcome(
            dataset=data.name,
            name=f"{data.name}_tpp",
            values={key: mean_of(values[key] for values in by_class) for key in by_class[0]},
            of_model={"tpp_llm_test_accuracy": data.clean.mean(-1)},
            clean=dict(zip(classes, data.clean[0].tolist(), strict=True)),
            num_train=bench.num_train,
            num_test=bench.num_test,
            num_off=without.num_off.numpy(),
            latents=dict(zip(classes, without.latents, strict=True)),
            by_class={
                label: {key: float(value[0]) for key, value in values.items()}
                for label, values in zip(classes, by_class, strict=True)
            },
        )


def examples(texts: LabelledTexts, part: Part, generator: torch.Generator) -> Iterator[Examples]:
    """Of each class against the rest, drawn when it is its turn."""
    numbers = {label: number for number, label in enumerate(texts.classes)}
    labels = torch.tensor([numbers[row.label] for row in texts.of(part)])
    for number in numbers.values():
        yield one_against_rest(labels, number, generator)


def tpp(clean: np.ndarray, without: np.ndarray, sizes: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """For each class whose latents are off: what its own probe loses, what the others lose on average, the difference.

    Args:
        clean: (draws, num_classes) accuracies.
        without: (num_classes, num_sizes, draws, num_classes), the class first whose latents are off.
        sizes: how many latents.

    Returns:
        By key, (draws,) each.
    """
    lost = clean - without
    by_class = []
    for number, drop in enumerate(lost):
        intended = drop[..., number]
        unintended = np.delete(drop, number, axis=-1).mean(-1)
        rows = zip(sizes, intended - unintended, intended, unintended, strict=True)
        by_class.append(
            {f"tpp_threshold_{n}_{what}": value for n, *row in rows for what, value in zip(WHAT, row, strict=True)}
        )
    return by_class

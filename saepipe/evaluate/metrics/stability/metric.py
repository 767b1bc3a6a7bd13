"""Stability: whether the seeds of a variant find the same latents, and how far beyond chance.

It needs stored activations but no model. SAEBench has no such evaluation. Formulas: docs/metrics/stability.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import STABILITY_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.stability.agreement import agreements
from saepipe.evaluate.metrics.stability.chance import Chance, Flipped, Random
from saepipe.evaluate.metrics.stability.dictionary import Dictionary
from saepipe.evaluate.metrics.stability.figures import SeedFigures, Values, figures, mean_values
from saepipe.evaluate.metrics.stability.heldout_text import HeldoutText
from saepipe.evaluate.metrics.stability.measurement import SeedResult, measurements, undefined
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.siblings import siblings
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.seeds import generator


class Stability(Metric):
    """Settings of `stability`. It loops over the held-out text once per variant, and twice per draw of chance."""

    name: Literal["stability"] = "stability"
    num_contexts: Count | None = Field(default=256, gt=0)
    """Held-out contexts to use; null: all. Every active entry of all seeds of a variant is held in memory."""
    num_draws: Count = Field(default=3, gt=0)
    """Draws of each kind of chance dictionary, per seed."""
    max_assigned: Count = Field(default=4096, gt=0)
    """Latents up to which the matching is the best; beyond it is a lower bound, with an upper one beside it."""
    runs_texts: ClassVar[bool] = False
    eval_type_id: ClassVar[str] = "stability"
    version: ClassVar[int] = 1
    uses_siblings: ClassVar[bool] = True
    shown: ClassVar[Mapping[str, FigureSpec]] = STABILITY_FIGURES

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Raises ConfigError if no token is kept."""
        text = HeldoutText(testbed, testbed.num_contexts(self.num_contexts), progress)
        by_group: dict[tuple[str, ...], dict[str, Measurement]] = {}
        results = []
        for subject in subjects:
            group = _with_siblings(subject, subjects)
            key = tuple(each.run.fingerprint for each in group)
            if key not in by_group:
                by_group[key] = dict(zip(key, self._of_variant(group, text), strict=True))
            results.append(by_group[key][subject.run.fingerprint])
        return results

    def _of_variant(self, seeds: Sequence[Subject], text: HeldoutText) -> list[Measurement]:
        """Returns one measurement per seed, in order."""
        if len(seeds) < 2:
            return [undefined(f"no other seed of {seeds[0].run.variant} was evaluated with it", num_seeds=1)]
        acts = text.encode([seed.encode_finite for seed in seeds], f"SAEs: {len(seeds)}")
        own = [Dictionary.of(seed.sae, of_seed) for seed, of_seed in zip(seeds, acts, strict=True)]
        if dead := [seed.name for seed, dictionary in zip(seeds, own, strict=True) if not len(dictionary)]:
            return [undefined(f"no latent of {dead[0]} was active", len(seeds)) for _ in seeds]
        agreed = agreements(own, own, self.max_assigned)
        results = [
            SeedResult(seed, dictionary, each, SeedFigures(figures(each, dictionary.density), *chance))
            for seed, dictionary, each, *chance in zip(seeds, own, agreed, *self._chance(seeds, own, text), strict=True)
        ]
        counts = {"contexts": text.num_contexts, "tokens": acts[0].num_tokens}
        return [
            replace(result, counts=counts | result.counts, eval_config=self._eval_config(text.testbed))
            for result in measurements(results)
        ]

    def _chance(
        self, seeds: Sequence[Subject], own: Sequence[Dictionary], text: HeldoutText
    ) -> tuple[list[Values], list[Values]]:
        """Returns each seed's figures among random and among flipped dictionaries, means over draws."""
        random, flipped = zip(*(self._drawn(seeds, own, text, draw) for draw in range(self.num_draws)), strict=True)
        return [mean_values(draws) for draws in zip(*random, strict=True)], [
            mean_values(draws) for draws in zip(*flipped, strict=True)
        ]

    def _drawn(
        self, seeds: Sequence[Subject], own: Sequence[Dictionary], text: HeldoutText, draw: int
    ) -> tuple[list[Values], list[Values]]:
        """Draws a dictionary of either kind for each seed; of a pair of seeds the later one is flipped."""
        named = [(generator(seed.run.seed, "stability", draw), seed) for seed in seeds]
        random = [Random.draw(each, text.axes, rng) for each, (rng, _) in zip(own, named, strict=True)]
        flipped = [
            Flipped.draw(seed, each, text.axes, rng) for each, (rng, seed) in zip(own[1:], named[1:], strict=True)
        ]
        chance: list[Chance] = [*random, *flipped]
        acts = text.encode([each.encode for each in chance], f"chance, draw {draw + 1} of {self.num_draws}")
        drawn = [each.dictionary(of_all) for each, of_all in zip(chance, acts, strict=True)]
        at_random, behind = drawn[: len(own)], [own[0], *drawn[len(own) :]]
        return self._values(at_random, at_random), self._values(own, behind)

    def _values(self, first: Sequence[Dictionary], second: Sequence[Dictionary]) -> list[Values]:
        agreed = agreements(first, second, self.max_assigned)
        return [figures(each, dictionary.density) for each, dictionary in zip(agreed, first, strict=True)]

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        dataset = testbed.cache.attributes["config"]["dataset"]["source"]
        context_size = testbed.cache.heldout.contexts.shape[1]
        return {"dataset": dataset, "context_size": context_size, **self.to_dict()}


def _with_siblings(subject: Subject, subjects: Sequence[Subject]) -> list[Subject]:
    """Returns a seed and those that it is compared with, in the order of the seeds."""
    by_fingerprint = {each.run.fingerprint: each for each in subjects}
    others = [by_fingerprint[run.fingerprint] for run in siblings(subject.run, (each.run for each in subjects))]
    return sorted([subject, *others], key=lambda each: each.run.seed)

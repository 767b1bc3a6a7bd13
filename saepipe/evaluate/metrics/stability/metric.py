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
from saepipe.evaluate.metrics.stability.heldout_text import HeldoutText
from saepipe.evaluate.metrics.stability.measurement import measurements, undefined
from saepipe.evaluate.metrics.stability.variant_seeds import VariantSeeds
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.siblings import siblings_of_each
from saepipe.evaluate.sae.subject import Subject


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
        by_fingerprint = {each.run.fingerprint: each for each in subjects}
        siblings = siblings_of_each(each.run for each in subjects)
        for subject in subjects:
            others = [by_fingerprint[run.fingerprint] for run in siblings[subject.run.fingerprint]]
            group = sorted([subject, *others], key=lambda each: each.run.seed)
            key = tuple(each.run.fingerprint for each in group)
            if key not in by_group:
                by_group[key] = dict(zip(key, self._of_variant(group, text), strict=True))
            results.append(by_group[key][subject.run.fingerprint])
        return results

    def _of_variant(self, seeds: Sequence[Subject], text: HeldoutText) -> list[Measurement]:
        """Returns one measurement per seed, in order."""
        if len(seeds) < 2:
            reason = f"no other seed of {seeds[0].run.variant} was evaluated with it; evaluate all seeds in one call"
            text.progress.say(f"stability of {seeds[0].name} is undefined: {reason}")
            return [undefined(reason, num_seeds=1)]
        variant = VariantSeeds.of(seeds, text, self.max_assigned)
        if dead := [seed.name for seed, own in zip(seeds, variant.own, strict=True) if not len(own)]:
            return [undefined(f"no latent of {dead[0]} was active", len(seeds)) for _ in seeds]
        counts = {"contexts": text.num_contexts, "tokens": variant.own[0].acts.num_tokens}
        return [
            replace(result, counts=counts | result.counts, eval_config=self._eval_config(text.testbed))
            for result in measurements(variant.results(self.num_draws))
        ]

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        dataset = testbed.cache.attributes["config"]["dataset"]["source"]
        context_size = testbed.cache.heldout.contexts.shape[1]
        return {"dataset": dataset, "context_size": context_size, **self.to_dict()}

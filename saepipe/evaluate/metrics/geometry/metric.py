"""Geometry: directions and densities of latents, joint activity of similar ones, and changes from a baseline.

It needs stored activations but no model. SAEBench has no such evaluation. Formulas: docs/metrics/geometry.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.figure_specs import GEOMETRY_FIGURES, FigureSpec
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.metrics.geometry.baseline_change import TrackedPairs, changes, track_pairs
from saepipe.evaluate.metrics.geometry.joint_firing import PairCounter, PairCounts
from saepipe.evaluate.metrics.geometry.listing import latent_entries, pair_entries, with_match
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.metrics.geometry.projection import ProjectionSample
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.metrics.geometry.widening import Widening, widening
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.reconstruction import encoding_bytes
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.decoder_cosines import similarity_bytes


class Geometry(Metric):
    """Settings of `geometry`. It loops over batches, then SAEs; the baseline is encoded along with the other SAEs."""

    name: Literal["geometry"] = "geometry"
    num_contexts: Count | None = Field(default=None, gt=0)
    """Held-out contexts to use; null: all."""
    num_pairs: Count = Field(default=256, gt=0)
    """Number of latent pairs, the most similar by decoder cosine, whose joint activity is counted."""
    runs_texts: ClassVar[bool] = False
    eval_type_id: ClassVar[str] = "geometry"
    version: ClassVar[int] = 2
    detail_bytes: ClassVar[int] = 5000
    uses_baseline: ClassVar[bool] = True
    shown: ClassVar[Mapping[str, FigureSpec]] = GEOMETRY_FIGURES

    def held_bytes(self, d_in: int, d_sae: int, testbed: Testbed) -> int:
        return similarity_bytes(d_in, d_sae) + encoding_bytes(d_sae)

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Raises ConfigError if the baseline belongs to another hook or cache, or if no token is kept."""
        num_contexts = testbed.num_contexts(self.num_contexts)
        sample = ProjectionSample(testbed, num_contexts)
        builders, baseline = self._builders(subjects, testbed, testbed.num_documents(num_contexts), sample)
        progress.start(f"geometry at {testbed.hook} (SAEs: {len(builders)})", num_contexts, "contexts")
        try:
            for batch in testbed.batches(num_contexts):
                sample.add(batch)
                for builder in builders:
                    builder.counter.add(batch)
                progress.advance(len(batch.ids))
        finally:
            progress.finish()
        if builders[0].counter.num_tokens == 0:
            raise ConfigError("the held-out contexts contain only special tokens", hint="harvest more held-out text")
        counts = {
            "contexts": num_contexts,
            "documents": testbed.num_documents(num_contexts),
            "tokens": builders[0].counter.num_tokens,
        }
        baseline_portrait = baseline.portrait if baseline else None
        measurements = [builder.measurement(baseline_portrait) for builder in builders[: len(subjects)]]
        return [replace(result, counts=counts, eval_config=self._eval_config(testbed)) for result in measurements]

    def _builders(
        self, subjects: Sequence[Subject], testbed: Testbed, num_documents: int, sample: ProjectionSample
    ) -> tuple[list[_PortraitBuilder], _PortraitBuilder | None]:
        """Returns one builder per subject, plus the baseline's, which is appended if it is not among the subjects."""
        baseline = _baseline(subjects, testbed)
        saes = [*subjects, *([baseline] if baseline and baseline not in subjects else [])]
        weights = [Weights.of(subject.sae, self.num_pairs) for subject in saes]
        baseline_weights = weights[saes.index(baseline)] if baseline else None
        builders = []
        for subject, w in zip(saes, weights, strict=True):
            tracked = track_pairs(w, baseline_weights) if baseline_weights and subject in subjects else None
            builders.append(_PortraitBuilder(subject, w, tracked, num_documents, sample))
        return builders, builders[saes.index(baseline)] if baseline else None

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        harvest = testbed.cache.attributes["config"]
        return {
            "dataset": harvest["dataset"]["source"],
            "context_size": testbed.cache.heldout.contexts.shape[1],
            "num_contexts": self.num_contexts,
            "num_pairs": self.num_pairs,
        }


class _PortraitBuilder:
    """Counts the active tokens of one SAE, then makes its portrait and measurement."""

    def __init__(
        self,
        subject: Subject,
        weights: Weights,
        tracked: TrackedPairs | None,
        num_documents: int,
        sample: ProjectionSample,
    ) -> None:
        self.weights, self.tracked, self._sample = weights, tracked, sample
        pairs = [weights.pairs, *([tracked.pairs] if tracked else [])]
        i, j = torch.cat([part.i for part in pairs]), torch.cat([part.j for part in pairs])
        self.counter = PairCounter(subject, i, j, num_documents)

    @cached_property
    def portrait(self) -> Portrait:
        pairs = self._counts.select(slice(None, len(self.weights.pairs.i)))
        projection = self._sample.measure(self.counter.subject)
        return Portrait(self.weights, self.counter.density, pairs, projection)

    @cached_property
    def _counts(self) -> PairCounts:
        return self.counter.pairs

    def measurement(self, baseline: Portrait | None) -> Measurement:
        latents = latent_entries(self.portrait)
        histograms = {key: asdict(h) for key, h in self.portrait.histograms().items()}
        more: dict[str, Any] = {"histograms": histograms, "pairs": pair_entries(self.portrait)}
        metrics = self.portrait.figures()
        widened, warnings = self._widening()
        if widened:
            metrics["widening"], more["widening"] = dict(widened.figures), dict(widened.sizes)
        if baseline and self.tracked:
            counts = self._counts.select(slice(len(self.weights.pairs.i), None))
            estimates = changes(self.portrait, baseline, self.tracked, counts)
            metrics["against_baseline"] = {key: replace(e, low=None, high=None) for key, e in estimates.items()}
            more["against_baseline"] = {
                "matched_by": self.tracked.match.method,
                "intervals_over_matched_latents_or_pairs": {
                    key: [e.low, e.high] for key, e in estimates.items() if e.low is not None
                },
                "histograms": {key: h.counts for key, h in baseline.histograms().items()},
            }
            latents = with_match(latents, self.tracked.match)
        return Measurement(metrics=metrics, details=latents, more=more, warnings=warnings)

    def _widening(self) -> tuple[Widening | None, list[str]]:
        """Returns the widening of the SAE, or the warning that it cannot be measured."""
        try:
            return widening(self.counter.subject), []
        except CorruptDataError as error:
            return None, [f"hedging is not measured: {error.message}"]


def _baseline(subjects: Sequence[Subject], testbed: Testbed) -> Subject | None:
    """Returns the SAE that the subjects are compared with; the equal subject itself if it is one of them."""
    baseline = testbed.baseline
    if baseline is None:
        return None
    theirs = (baseline.run.cache_fingerprint, baseline.run.hook, len(baseline.sae.W_enc))
    ours = (testbed.cache.fingerprint, testbed.hook, len(subjects[0].sae.W_enc))
    if theirs != ours:
        raise ConfigError(
            f"the baseline {baseline.name} reads d_in {theirs[2]} at {theirs[1]} of cache {theirs[0][:8]}, "
            f"the other SAEs d_in {ours[2]} at {ours[1]} of cache {ours[0][:8]}: their latents cannot be compared",
            hint="give a baseline of the same cache and hook",
        )
    same = (subject for subject in subjects if subject.run.fingerprint == baseline.run.fingerprint)
    return next(same, baseline)

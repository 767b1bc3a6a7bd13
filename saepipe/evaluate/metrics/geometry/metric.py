"""Geometry: where latents point, how often they fire, which similar ones fire together, and what a baseline did.

It needs no model, only stored activations. SAEBench has no such evaluation. Formulas: docs/metrics/geometry.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.metrics.base import Measurement, Metric, Shown
from saepipe.evaluate.metrics.geometry.baseline_change import Followed, changes, follow
from saepipe.evaluate.metrics.geometry.joint_firing import Firing, PairCounts
from saepipe.evaluate.metrics.geometry.listing import latent_list, pair_list, with_match
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.subject import Subject


class Geometry(Metric):
    """Batches of contexts outside, SAEs inside; the baseline is encoded along with them."""

    name: Literal["geometry"] = "geometry"
    num_contexts: Count | None = Field(default=None, gt=0)
    """Held-out contexts to use; null: all."""
    num_pairs: Count = Field(default=256, gt=0)
    """The most similar pairs of latents, by decoder cosine, whose firing is looked at."""
    eval_type_id: ClassVar[str] = "geometry"
    version: ClassVar[int] = 1
    uses_baseline: ClassVar[bool] = True
    shown: ClassVar[Mapping[str, Shown]] = {
        "mean_max_decoder_cosine": Shown("max cosine", "lower"),
        "frac_max_decoder_cosine_over_70": Shown("max cosine > 0.7", "lower"),
        "mean_encoder_decoder_cosine": Shown("enc-dec cosine"),
        "mean_decoder_norm": Shown("decoder norm"),
        "frac_dead": Shown("dead", "lower"),
        "frac_dense": Shown("dense", "lower"),
        "mean_log10_density": Shown("log10 density"),
        "mean_pair_conditional": Shown("P(parent | child) of similar pairs"),
        "mean_pair_lift": Shown("lift of similar pairs"),
    }

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        """Raises ConfigError if the baseline is of another hook or cache, or if no token is kept."""
        num_contexts = testbed.num_contexts(self.num_contexts)
        sitters, baseline = self._sitters(subjects, testbed, testbed.num_documents(num_contexts))
        progress.start(f"geometry at {testbed.hook} (SAEs: {len(sitters)})", num_contexts, "contexts")
        try:
            for batch in testbed.batches(num_contexts):
                for sitter in sitters:
                    sitter.firing.add(batch)
                progress.advance(len(batch.ids))
        finally:
            progress.finish()
        if sitters[0].firing.num_tokens == 0:
            raise ConfigError("the held-out contexts hold special tokens only", hint="harvest with more held-out text")
        counts = {
            "contexts": num_contexts,
            "documents": testbed.num_documents(num_contexts),
            "tokens": sitters[0].firing.num_tokens,
        }
        before = baseline.portrait if baseline else None
        measured = [sitter.measurement(before) for sitter in sitters[: len(subjects)]]
        return [replace(one, counts=counts, eval_config=self._eval_config(testbed)) for one in measured]

    def _sitters(
        self, subjects: Sequence[Subject], testbed: Testbed, num_documents: int
    ) -> tuple[list[_Sitter], _Sitter | None]:
        """One a subject, and the baseline's, which comes last where it is not one of them."""
        baseline = _baseline(subjects, testbed)
        everyone = [*subjects, *([baseline] if baseline and baseline not in subjects else [])]
        weights = [Weights.of(subject.sae, self.num_pairs) for subject in everyone]
        before = weights[everyone.index(baseline)] if baseline else None
        sitters = [
            _Sitter(subject, of, follow(of, before) if before and subject in subjects else None, num_documents)
            for subject, of in zip(everyone, weights, strict=True)
        ]
        return sitters, sitters[everyone.index(baseline)] if baseline else None

    def _eval_config(self, testbed: Testbed) -> dict[str, Any]:
        harvest = testbed.cache.attributes["config"]
        return {
            "dataset": harvest["dataset"]["source"],
            "context_size": testbed.cache.heldout.contexts.shape[1],
            "num_contexts": self.num_contexts,
            "num_pairs": self.num_pairs,
        }


class _Sitter:
    """An SAE whose portrait is made."""

    def __init__(self, subject: Subject, weights: Weights, followed: Followed | None, num_documents: int) -> None:
        self.weights, self.followed = weights, followed
        pairs = [weights.pairs, *([followed.pairs] if followed else [])]
        i, j = torch.cat([some.i for some in pairs]), torch.cat([some.j for some in pairs])
        self.firing = Firing(subject, i, j, num_documents)

    @cached_property
    def portrait(self) -> Portrait:
        return Portrait(self.weights, self.firing.density, self._counts.at(slice(None, len(self.weights.pairs.i))))

    @cached_property
    def _counts(self) -> PairCounts:
        return self.firing.pairs

    def measurement(self, baseline: Portrait | None) -> Measurement:
        latents, histograms = latent_list(self.portrait), {k: asdict(h) for k, h in self.portrait.histograms().items()}
        more: dict[str, Any] = {"histograms": histograms, "pairs": pair_list(self.portrait)}
        metrics = self.portrait.figures()
        if baseline and self.followed:
            counts = self._counts.at(slice(len(self.weights.pairs.i), None))
            found = changes(self.portrait, baseline, self.followed, counts)
            metrics["against_baseline"] = {key: replace(one, low=None, high=None) for key, one in found.items()}
            more["against_baseline"] = {
                "matched_by": self.followed.match.method,
                "intervals_over_matched_latents_or_pairs": {
                    key: [one.low, one.high] for key, one in found.items() if one.low is not None
                },
                "histograms": {key: one.counts for key, one in baseline.histograms().items()},
            }
            latents = with_match(latents, self.followed.match)
        return Measurement(metrics=metrics, details=latents, more=more)


def _baseline(subjects: Sequence[Subject], testbed: Testbed) -> Subject | None:
    """What the others are compared with: one of them where it is among them."""
    baseline = testbed.baseline
    if baseline is None:
        return None
    of, here = (baseline.run.cache_fingerprint, baseline.run.hook), (testbed.cache.fingerprint, testbed.hook)
    d_in, ours = len(baseline.sae.W_enc), len(subjects[0].sae.W_enc)
    if of != here or d_in != ours:
        raise ConfigError(
            f"the baseline {baseline.name} reads {d_in} numbers at {of[1]} of cache {of[0][:8]}, "
            f"the others {ours} at {here[1]} of cache {here[0][:8]}: their latents do not compare",
            hint="a baseline of the same cache and hook",
        )
    same = (subject for subject in subjects if subject.run.fingerprint == baseline.run.fingerprint)
    return next(same, baseline)

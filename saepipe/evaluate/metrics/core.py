"""Core: how well an SAE reconstructs, how sparsely, and what the model loses when it reads the reconstruction.

Formulas, masks and where the reference (SAEBench 0.6.0) differs: docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config import Count
from saepipe.data.errors import ConfigError
from saepipe.data.progress import Progress
from saepipe.evaluate.figures import CoreSums, details, extra, latent_figures, metrics, reference, warnings
from saepipe.evaluate.latents import Firing
from saepipe.evaluate.metrics.base import Measurement, Metric
from saepipe.evaluate.prediction import Prediction, predict
from saepipe.evaluate.reconstruction import reconstruct, token_values
from saepipe.evaluate.resume import Resume
from saepipe.evaluate.subject import Subject
from saepipe.evaluate.sums import Sums
from saepipe.evaluate.testbed import Batch, Testbed


class Core(Metric):
    """Batches of contexts outside, SAEs inside: the clean and the ablated passes are made once for all SAEs."""

    name: Literal["core"] = "core"
    num_contexts: Count | None = Field(default=None, gt=0)
    """Held-out contexts to use; null: all."""
    eval_type_id: ClassVar[str] = "core"
    version: ClassVar[int] = 1

    @torch.no_grad()
    def measure(self, subjects: Sequence[Subject], testbed: Testbed, progress: Progress) -> list[Measurement]:
        num_contexts = testbed.num_contexts(self.num_contexts)
        num_documents = testbed.num_documents(num_contexts)
        gap = testbed.resume_gap()
        mean = heldout_mean(testbed.batches(num_contexts))
        passes = _ModelPasses(num_documents)
        tallies = [_Tally(subject, num_documents, mean) for subject in subjects]
        progress.start(f"core at {testbed.hook} (SAEs: {len(subjects)})", num_contexts, "contexts")
        try:
            with testbed.resumed() as resume:
                for batch in testbed.batches(num_contexts):
                    clean = passes.add(batch, resume)
                    for tally in tallies:
                        tally.add(batch, clean, resume)
                    del clean  # else two batches' logits would be held while the next one's are made
                    progress.advance(len(batch.ids))
        finally:
            progress.finish()
        return [tally.measurement(passes, gap, self._eval_config(testbed, num_contexts)) for tally in tallies]

    def _eval_config(self, testbed: Testbed, num_contexts: int) -> dict[str, Any]:
        num_batches = -(-num_contexts // testbed.batch_size)
        model = testbed.language_model.config
        return {
            "model_name": model.model,
            "batch_size_prompts": testbed.batch_size,
            "n_eval_reconstruction_batches": num_batches,
            "n_eval_sparsity_variance_batches": num_batches,
            "dataset": testbed.cache.attributes["config"]["dataset"]["source"],
            "context_size": testbed.cache.heldout.contexts.shape[1],
            "compute_kl": True,
            "compute_ce_loss": True,
            "compute_l2_norms": True,
            "compute_sparsity_metrics": True,
            "compute_variance_metrics": True,
            "compute_featurewise_density_statistics": True,
            "compute_featurewise_weight_based_metrics": True,
            "exclude_special_tokens_from_reconstruction": True,
            "llm_dtype": model.dtype,
        }


def heldout_mean(batches: Iterable[Batch]) -> torch.Tensor:
    """(d_in,) float64: the mean activation over all kept tokens, so that variation is about the true mean.

    Raises:
        ConfigError: if no token is kept.
    """
    sums, num_tokens = [], 0
    for batch in batches:
        x = batch.x[batch.keep].double()
        sums.append(x.sum(0))
        num_tokens += len(x)
    if num_tokens == 0:
        raise ConfigError("the held-out contexts hold special tokens only", hint="harvest with more held-out text")
    return torch.stack(sums).sum(0) / num_tokens


class _ModelPasses:
    """What depends on the model alone: its loss as it is, and with zeros at the hook."""

    def __init__(self, num_documents: int) -> None:
        self.vocab_size = 0
        self.clean = Sums(num_documents, "the clean model")
        self.ablated = Sums(num_documents, "the zero-ablated model")
        self.ablated_everywhere = Sums(num_documents, "the zero-ablated model")

    def add(self, batch: Batch, resume: Resume) -> torch.Tensor:
        """Runs the three passes on a batch and returns the clean logits (batch, seq, vocab)."""
        clean = resume(batch.ids, batch.x)
        self.vocab_size = clean.shape[-1]

        def judge(sums: Sums, logits: torch.Tensor) -> None:
            values = prediction_values(batch, predict(logits, batch.ids, clean))
            sums.add(batch.documents[batch.keep], values)

        judge(self.clean, clean)
        judge(self.ablated, resume(batch.ids, batch.spliced(0.0)))
        # Zeros at all positions leave nothing of the context: its logits are those of any other.
        zeros = torch.zeros_like(batch.x[:1])
        judge(self.ablated_everywhere, resume(batch.ids[:1], zeros).expand_as(clean))
        return clean


class _Tally:
    """The sums of one SAE."""

    def __init__(self, subject: Subject, num_documents: int, mean: torch.Tensor) -> None:
        self.subject = subject
        self.mean = mean
        self.sums = Sums(num_documents, f"the SAE of {subject.name}")
        self.firing = Firing.none(subject.sae.d_sae)

    def add(self, batch: Batch, clean: torch.Tensor, resume: Resume) -> None:
        x = batch.x[batch.keep]
        made = reconstruct(self.subject.sae, x, batch.keep.nonzero()[:, 0], len(batch.ids))
        logits = resume(batch.ids, batch.spliced(made.x_hat))
        values = token_values(x, made.x_hat, self.mean)
        values |= {"l0": made.l0, "l1": made.l1, "signed_l1": made.signed_l1}
        values |= prediction_values(batch, predict(logits, batch.ids, clean))
        self.sums.add(batch.documents[batch.keep], values)
        self.firing = self.firing.add(made.firing)

    def measurement(self, passes: _ModelPasses, resume_gap: float, eval_config: dict[str, Any]) -> Measurement:
        sums = CoreSums(self.sums, passes.clean, passes.ablated, passes.ablated_everywhere)
        num_tokens = int(self.sums.total("tokens"))
        latents = latent_figures(self.subject.sae, self.firing, num_tokens)
        positions = self.firing.num_contexts * eval_config["context_size"]
        return Measurement(
            metrics=metrics(sums, latents, num_positions=positions),
            extra=extra(sums) | {"resume_gap": resume_gap},
            reference=reference(sums, d_in=len(self.mean)),
            details=details(latents),
            counts={
                "contexts": self.firing.num_contexts,
                "documents": self.sums.num_documents,
                "tokens": num_tokens,
                "scored": int(self.sums.total("scored")),
            },
            warnings=warnings(sums, passes.vocab_size),
            eval_config=eval_config,
        )


def prediction_values(batch: Batch, prediction: Prediction) -> dict[str, torch.Tensor]:
    """What the CE and KL metrics are sums of.

    Returns:
        By name, (num_kept,) each: `ce` and `kl` at the `scored` positions, `ce_reference` at the `predicting` ones
        (kept, with a target of any kind), `kl_reference` at all kept ones; 0 elsewhere.
    """
    scored, predicting = batch.scored[batch.keep], batch.has_target.expand_as(batch.keep)[batch.keep]
    ce, kl = prediction.ce[batch.keep], prediction.kl[batch.keep]
    return {
        "scored": scored,
        "ce": ce.where(scored, 0.0),
        "kl": kl.where(scored, 0.0),
        "predicting": predicting,
        "ce_reference": ce.where(predicting, 0.0),
        "kl_reference": kl,
    }

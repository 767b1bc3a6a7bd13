"""Accumulators of one SAE's core figures over held-out batches, one class per mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.base import Measurement
from saepipe.evaluate.metrics.core import formulas
from saepipe.evaluate.metrics.core import saebench_formulas as saebench
from saepipe.evaluate.metrics.core.document_sums import DocumentSums
from saepipe.evaluate.metrics.core.model_losses import ModelLosses
from saepipe.evaluate.model.next_token import Prediction, predict, predict_as_saebench
from saepipe.evaluate.model.testbed import Batch
from saepipe.evaluate.model.upper_layers import UpperLayers
from saepipe.evaluate.sae.firing import ActiveCounts
from saepipe.evaluate.sae.reconstruction import Reconstruction, reconstruct, skip_of, token_values
from saepipe.evaluate.sae.subject import Subject


class Accumulator(Protocol):
    """Takes batches in order, then returns the figures."""

    def add(self, batch: Batch, clean: torch.Tensor | None, upper_layers: UpperLayers) -> None:
        """Adds the next batch; `clean` is its clean logits (batch, seq, vocab) if it counts for CE and KL."""

    def measurement(self) -> Measurement: ...


class FixedAccumulator:
    """Accumulator of mode fixed: every batch counts for every figure, and sums are kept per document."""

    def __init__(self, subject: Subject, losses: ModelLosses, num_documents: int) -> None:
        self.subject = subject
        self.losses = losses
        self.sums = formulas.CoreSums(
            sae=DocumentSums(num_documents, f"the SAE of {subject.name}"),
            clean=DocumentSums(num_documents, "the clean model"),
            ablated=DocumentSums(num_documents, "the zero-ablated model"),
            others={name: DocumentSums(num_documents, f"the model with {name}") for name in self._other_names()},
        )
        self.active = ActiveCounts.zeros(subject.sae.d_sae)
        self.num_contexts = 0
        self.num_positions = 0

    def add(self, batch: Batch, clean: torch.Tensor | None, upper_layers: UpperLayers) -> None:
        assert clean is not None
        x, documents, device = batch.x[batch.keep], batch.documents[batch.keep], batch.x.device
        reconstruction = reconstruct(self.subject.sae, x, batch.keep.nonzero()[:, 0], len(batch.ids))
        target = batch.target[batch.keep]
        values = token_values(target, reconstruction.x_hat, self.losses.mean.to(device))
        values |= {"l0": reconstruction.l0, "l1": reconstruction.l1}
        spliced = predict(upper_layers(batch.ids, batch.spliced(reconstruction.x_hat)), batch.ids, clean)
        self.sums.sae.add(documents, values | _scored_losses(batch, spliced))
        contexts = slice(self.num_contexts, self.num_contexts + len(batch.ids))
        kept = [(self.sums.clean, self.losses.clean), (self.sums.ablated, self.losses.ablated)]
        if self.losses.mean_ablated:
            kept.append((self.sums.others["mean_ablation"], self.losses.mean_ablated))
        for sums, losses in kept:
            sums.add(documents, _scored_losses(batch, losses[contexts].to(device)))
        for name, replaced in self._without_a_part(x, reconstruction.x_hat).items():
            logits = upper_layers(batch.ids, batch.spliced(replaced))
            self.sums.others[name].add(documents, _scored_losses(batch, predict(logits, batch.ids, clean)))
        self.active = self.active.add(reconstruction.num_active)
        self.num_contexts += len(batch.ids)
        self.num_positions += batch.ids.numel()

    def _other_names(self) -> list[str]:
        means = ["mean_ablation"] if self.losses.mean_ablated else []
        return [*means, *(("skip_alone", "without_skip") if self.subject.has_skip else ())]

    def _without_a_part(self, x: torch.Tensor, x_hat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns a skip transcoder's reconstructions (num_tokens, d_out) with its latents or its skip left out."""
        skip = skip_of(self.subject.sae, x)
        return {} if skip is None else {"skip_alone": self.subject.without_latents(x), "without_skip": x_hat - skip}

    def measurement(self) -> Measurement:
        num_tokens = int(self.sums.sae.total("tokens"))
        latents = formulas.latent_figures(self.subject.sae, self.active, num_tokens)
        return Measurement(
            metrics=formulas.metrics(self.sums, latents, self.num_positions),
            extra=formulas.extra(self.sums) | {"resume_gap": self.losses.resume_gap},
            details=formulas.details(latents),
            counts={
                "contexts": self.num_contexts,
                "documents": self.sums.sae.num_documents,
                "tokens": num_tokens,
                "scored": int(self.sums.sae.total("scored")),
            },
            warnings=formulas.warnings(self.sums, self.losses.vocab_size),
        )


def _scored_losses(batch: Batch, prediction: Prediction) -> dict[str, torch.Tensor]:
    """Returns `scored`, `ce` and `kl` of the kept tokens, (num_kept,) each; the losses are 0 where not scored."""
    scored = batch.scored[batch.keep]
    ce, kl = prediction.ce[batch.keep], prediction.kl[batch.keep]
    return {"scored": scored, "ce": ce.where(scored, 0.0), "kl": kl.where(scored, 0.0)}


class ReferenceAccumulator:
    """Accumulator of mode reference: as in SAEBench, the first batches give only CE and KL, the later ones the rest."""

    def __init__(self, subject: Subject, losses: ModelLosses, ignored: torch.Tensor, *, splice_ignored: bool) -> None:
        """Args:
        subject: the SAE.
        losses: the model's losses on the contexts that count for CE and KL.
        ignored: (num_ignored,) ids of the tokens that are not kept.
        splice_ignored: whether x_hat replaces x at ignored tokens too.
        """
        self.subject = subject
        self.losses = losses
        self.ignored = ignored
        self.splice_ignored = splice_ignored
        self.spliced: list[Prediction] = []
        self.keep: list[torch.Tensor] = []
        self.batches: list[dict[str, float]] = []
        self.active = ActiveCounts.zeros(subject.sae.d_sae)

    def add(self, batch: Batch, clean: torch.Tensor | None, upper_layers: UpperLayers) -> None:
        batch = replace(batch, keep=~torch.isin(batch.ids, self.ignored))
        if clean is None:
            self._add_activations(batch)
        else:
            self._add_losses(batch, clean, upper_layers)

    def measurement(self) -> Measurement:
        spliced, keep = Prediction.cat(self.spliced), torch.cat(self.keep)
        passes = {"with_ablation": self.losses.ablated, "with_sae": spliced, "without_sae": self.losses.clean}
        ce = {name: saebench.mean_ce(prediction, keep) for name, prediction in passes.items()}
        kl = {name: saebench.mean_kl(prediction, keep) for name, prediction in passes.items()}
        num_tokens = int(sum(batch["tokens"] for batch in self.batches))
        latents = formulas.latent_figures(self.subject.sae, self.active, num_tokens, with_zeros=True)
        return Measurement(
            metrics={
                **saebench.figures_of_losses(ce, kl),
                **saebench.figures_of_activations(self.batches, d_in=len(self.losses.mean)),
                "token_stats": {
                    "total_tokens_eval_reconstruction": keep.numel(),
                    "total_tokens_eval_sparsity_variance": self.active.num_contexts * keep.shape[1],
                },
                "misc_metrics": saebench.figures_of_latents(latents),
            },
            extra={
                "delta_ce": saebench.to_figure(ce["with_sae"] - ce["without_sae"]),
                "resume_gap": self.losses.resume_gap,
            },
            details=saebench.details(latents),
            counts={
                "reconstruction_contexts": len(keep),
                "contexts": self.active.num_contexts,
                "tokens": num_tokens,
            },
            warnings=formulas.chance_warnings(ce["without_sae"], self.losses.vocab_size),
        )

    def _add_losses(self, batch: Batch, clean: torch.Tensor, upper_layers: UpperLayers) -> None:
        replaced = replace(batch, keep=torch.ones_like(batch.keep)) if self.splice_ignored else batch
        logits = upper_layers(batch.ids, replaced.spliced(self._reconstruct(replaced).x_hat))
        self.spliced.append(predict_as_saebench(logits, batch.ids, clean).to(torch.device("cpu")))
        self.keep.append(batch.keep.cpu())

    def _add_activations(self, batch: Batch) -> None:
        reconstruction = self._reconstruct(batch)
        self.batches.append(saebench.token_sums(batch.x[batch.keep], reconstruction))
        self.active = self.active.add(reconstruction.num_active)

    def _reconstruct(self, batch: Batch) -> Reconstruction:
        x, contexts = batch.x[batch.keep], batch.keep.nonzero()[:, 0]
        reconstruction = reconstruct(self.subject.sae, x, contexts, len(batch.ids), positive=True)
        if not reconstruction.x_hat.isfinite().all():
            raise CorruptDataError(f"the SAE of {self.subject.name} on held-out tokens: x_hat is NaN or Inf")
        return reconstruction

"""Held-out losses of the model alone, unchanged, and with zeros or means at the hook: computed once and stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from saepipe.data.cache.paired_cache import own_name
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.next_token import Prediction, predict, predict_as_saebench
from saepipe.evaluate.model.testbed import Batch, Testbed
from saepipe.evaluate.model.upper_layers import UpperLayers
from saepipe.harvest.hook_point import HookPoint

PREDICT = {"fixed": predict, "reference": predict_as_saebench}

_FORMAT = 1


@dataclass(frozen=True)
class ModelLosses:
    """Losses on the first held-out contexts, on the CPU."""

    clean: Prediction
    """(num_contexts, seq): the upper layers on the unchanged activations; the KL from itself is 0"""
    ablated: Prediction
    """(num_contexts, seq): zeros at the kept positions; in mode reference at all positions, BOS included"""
    mean_ablated: Prediction | None
    """(num_contexts, seq): the mean at the kept positions; None between layers, and in mode reference"""
    mean: torch.Tensor
    """(d_out,) float64: mean activation over all kept tokens, so that variation is about the true mean"""
    resume_gap: float
    """nats; see `Testbed.upper_layers_gap`"""
    vocab_size: int


def losses_work(testbed: Testbed, num_contexts: int) -> Work:
    """Returns the key of the stored losses. It includes the batch size, on which rounding depends."""
    key = {
        "format": _FORMAT,
        "cache": testbed.cache.identity,
        "num_contexts": num_contexts,
        "batch_size": testbed.batch_size,
        "mode": testbed.mode,
        "live": testbed.live,
    }
    if len(testbed.read_hooks) > 1:  # one of several hooks, each with losses of its own
        key["target"] = testbed.written
    return Work("core", key | ({"mean_ablation": True} if _ablates_mean(testbed) else {}))


def _ablates_mean(testbed: Testbed) -> bool:
    """Returns whether the mean is tried in place of the activations: where they are a part of the residual stream.

    Zeros there take away what every token gets alike, too, of which no latent has to know.
    """
    return testbed.mode == "fixed" and not HookPoint.parse(own_name(testbed.written)).is_between_layers


def model_losses(testbed: Testbed, num_contexts: int, progress: Progress) -> ModelLosses:
    """Returns losses on the first `num_contexts` held-out contexts. The first call runs the upper layers for them.

    Raises:
        ConfigError: if no token is kept.
        CorruptDataError: if the model is not the one that made the cache.
    """
    work = losses_work(testbed, num_contexts)
    stored = testbed.kept_work.get(work.kind, work.key, lambda: _compute_losses(testbed, num_contexts, progress))
    tensors = stored.tensors
    return ModelLosses(
        clean=Prediction(tensors["ce_clean"], torch.zeros_like(tensors["ce_clean"])),
        ablated=Prediction(tensors["ce_ablated"], tensors["kl_ablated"]),
        mean_ablated=Prediction(tensors["ce_mean"], tensors["kl_mean"]) if "ce_mean" in tensors else None,
        mean=tensors["mean"],
        resume_gap=stored.info["resume_gap"],
        vocab_size=stored.info["vocab_size"],
    )


@torch.no_grad()
def _compute_losses(testbed: Testbed, num_contexts: int, progress: Progress) -> Content:
    gap = testbed.upper_layers_gap()
    predict = PREDICT[testbed.mode]
    ablate = _ablate_all if testbed.mode == "reference" else _ablate_kept
    clean_ce, ablated_batches, sums, num_tokens, vocab_size = [], [], [], 0, 0
    for batch in batches_with_progress(testbed, num_contexts, progress, "the model"):
        with testbed.upper_layers() as upper_layers:
            clean = upper_layers(batch.ids, batch.target)
            zeroed = ablate(batch, upper_layers)
        clean_ce.append(predict(clean, batch.ids, clean).ce)
        ablated_batches.append(predict(zeroed.expand_as(clean), batch.ids, clean))
        x = batch.target[batch.keep].double()
        sums.append(x.sum(0))
        num_tokens += len(x)
        vocab_size = clean.shape[-1]
        del clean, zeroed, x  # frees the logits before those of the next batch are allocated
    if num_tokens == 0:
        raise ConfigError("the held-out contexts contain only special tokens", hint="harvest more held-out text")
    ablated = Prediction.cat(ablated_batches)
    mean = torch.stack(sums).sum(0) / num_tokens
    tensors = {
        "ce_clean": torch.cat(clean_ce),
        "ce_ablated": ablated.ce,
        "kl_ablated": ablated.kl,
        "mean": mean,
    }
    if _ablates_mean(testbed):
        replaced = _with_mean(testbed, num_contexts, mean, progress)
        tensors |= {"ce_mean": replaced.ce, "kl_mean": replaced.kl}
    return Content(tensors, {"resume_gap": gap, "vocab_size": vocab_size})


def _with_mean(testbed: Testbed, num_contexts: int, mean: torch.Tensor, progress: Progress) -> Prediction:
    """Returns the losses with the mean (d_out,) at the kept positions."""
    parts = []
    for batch in batches_with_progress(testbed, num_contexts, progress, "the model with means"):
        with testbed.upper_layers() as upper_layers:
            clean = upper_layers(batch.ids, batch.target)
            parts.append(predict(upper_layers(batch.ids, batch.spliced(mean.to(batch.target))), batch.ids, clean))
    return Prediction.cat(parts)


def batches_with_progress(testbed: Testbed, num_contexts: int, progress: Progress, label: str) -> Iterator[Batch]:
    """Yields the batches and advances a progress bar."""
    progress.start(f"core at {testbed.written} ({label})", num_contexts, "contexts")
    try:
        for batch in testbed.batches(num_contexts):
            yield batch
            progress.advance(len(batch.ids))
    finally:
        progress.finish()


def _ablate_kept(batch: Batch, upper_layers: UpperLayers) -> torch.Tensor:
    return upper_layers(batch.ids, batch.spliced(0.0))


def _ablate_all(batch: Batch, upper_layers: UpperLayers) -> torch.Tensor:
    """Returns logits (1, seq, vocab) of one context: with zeros at all positions they are the same for any context."""
    return upper_layers(batch.ids[:1], torch.zeros_like(batch.target[:1]))

"""Feature stores of all runs at one hook of a cache, built in one pass: each row is read and moved once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Layout
from saepipe.data.errors import SaepipeError
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.features import surroundings
from saepipe.evaluate.features.active import TokenRows, active_entries
from saepipe.evaluate.features.coactive import CoactivationCounter
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import chunks, num_rows
from saepipe.evaluate.features.firing_statistics import FiringStatistics
from saepipe.evaluate.features.logits import added_to_the_stream, logits
from saepipe.evaluate.features.store import StoreInfo
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.features.token_sample import SampledTokens, TokenSample
from saepipe.evaluate.features.top_examples import TopExamples
from saepipe.evaluate.features.write_store import write_features
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.sae.reconstruction import tokens_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.decoder_cosines import neighbours
from saepipe.evaluate.texts.token_texts import token_texts
from saepipe.harvest.hook_point import HookPoint

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ReadCounts:
    """Totals of the pass over the cache."""

    num_tokens: int
    num_contexts: int


class StoreBuilder:
    """Accumulates the feature store of one SAE over the pass."""

    def __init__(self, subject: Subject, settings: Features, window: int, device: torch.device) -> None:
        d_sae, sample = subject.sae.d_sae, settings.num_quantiles * settings.per_quantile
        self.subject = subject
        self.statistics = FiringStatistics(d_sae, device)
        self.top = TopExamples(d_sae, settings.num_top, window, device)
        # Those that turn out to repeat a top example are left out in the end.
        self.sample = TopExamples(d_sae, sample + settings.num_top, window, device)
        self.coactive = CoactivationCounter(d_sae, settings.coactive_pairs * d_sae)
        self.firings = TokenSample(settings.firing_entries * d_sae, np.asarray)

    def add(self, tokens: TokenRows) -> None:
        entries = active_entries(self.subject, tokens)
        self.statistics.add(entries)
        self.top.add(entries, entries.act)
        self.sample.add(entries, tokens.uniform.index_select(0, entries.row))
        self.coactive.sample.add(entries)
        self.firings.add(entries)


@torch.no_grad()
def build_stores(jobs: Sequence[StoreJob], progress: Progress) -> None:
    """Builds the stores of some runs, all at one hook of one cache and with the same settings.

    Raises:
        CorruptDataError: if an SAE gives NaN or Inf, or the cache is damaged.
        ConfigError: if held-out contexts are requested, and the cache has none.
        LockedError: if another process is building one of the stores now.
    """
    testbed, settings = jobs[0].testbed, jobs[0].settings
    window = min(settings.window, testbed.cache.attributes["context_size"])
    subjects = [Subject.load(job.run, testbed.device) for job in jobs]
    builders = [StoreBuilder(subject, settings, window, testbed.device) for subject in subjects]
    counts = _read(builders, testbed, settings, progress)
    for builder, job in zip(builders, jobs, strict=True):
        _write(builder, job, counts, progress)


def _read(builders: Sequence[StoreBuilder], testbed: Testbed, settings: Features, progress: Progress) -> ReadCounts:
    cache, num_contexts, last = testbed.cache, 0, -1
    total, size = num_rows(cache, settings), tokens_at_a_time(max(builder.subject.sae.d_sae for builder in builders))
    progress.start(f"features at {testbed.hook} (SAEs: {len(builders)})", total, "tokens")
    try:
        for chunk in chunks(cache, testbed.hook, settings, size):
            digests = surroundings.of_chunk(cache, settings.split, chunk)
            tokens = TokenRows(chunk, digests, cache.attributes["context_size"], settings.seed, testbed.device)
            for builder in builders:
                builder.add(tokens)
            num_contexts += len(np.unique(chunk.context))
            assert chunk.context[0] > last, "a context is in one chunk"
            last = chunk.context[-1]
            progress.advance(len(chunk.x))
    finally:
        progress.finish()
    return ReadCounts(total, num_contexts)


def _write(builder: StoreBuilder, job: StoreJob, counts: ReadCounts, progress: Progress) -> None:
    subject, testbed, settings = builder.subject, job.testbed, job.settings
    cache = testbed.cache
    W_dec = subject.sae.W_dec.detach()
    arrays = builder.statistics.arrays()
    arrays["decoder_norm"] = torch.linalg.vector_norm(W_dec.float(), dim=1).cpu().numpy()
    arrays |= _examples(builder, arrays["max_act"], cache, settings)
    arrays |= neighbours(W_dec, settings.num_neighbours) | builder.coactive.nearest(settings.num_neighbours)
    arrays |= _firings(builder.firings.tokens(), arrays["max_act"])
    logit_arrays, no_logits = _logits(W_dec, testbed, settings)
    arrays |= logit_arrays
    ids = [arrays[name] for name in ("contexts", "positive_ids", "negative_ids") if name in arrays]
    texts, no_texts = token_texts(cache, np.unique(np.concatenate([part.ravel() for part in ids])).tolist())
    for reason in filter(None, (no_logits if settings.num_logits else None, no_texts)):
        progress.say(f"features of {subject.name}: {reason}")
    info = StoreInfo(
        variant=subject.run.variant,
        seed=subject.run.seed,
        run=subject.run.fingerprint,
        cache=cache.fingerprint,
        hook=testbed.hook,
        target=testbed.target,
        model=cache.attributes["model"],
        dataset=cache.attributes.get("dataset", {}),
        d_in=W_dec.shape[1],
        d_sae=subject.sae.d_sae,
        context_size=cache.attributes["context_size"],
        split=settings.split,
        num_tokens=counts.num_tokens,
        num_contexts=counts.num_contexts,
        num_dead=int((builder.statistics.num_active == 0).sum()),
        coactive_tokens=builder.coactive.sample.num_tokens,
        firing_share=builder.firings.share,
        num_top=settings.num_top,
        num_quantiles=settings.num_quantiles,
        per_quantile=settings.per_quantile,
        window=arrays["heat"].shape[2],
        settings=settings.to_dict(),
        no_logits=no_logits,
        no_texts=no_texts,
    )
    write_features(job.folder, info, arrays, texts, asdict(job.request), run=job.run.path)


def _examples(builder: StoreBuilder, max_act: np.ndarray, cache: Cache, settings: Features) -> Arrays:
    """Returns the top and the sample side by side, and the contexts that contain them, each once."""
    size = cache.attributes["context_size"]
    builder.sample.leave_out(builder.top, settings.num_quantiles * settings.per_quantile, size)
    tops, samples = builder.top.in_order(strongest_first=True), builder.sample.in_order(strongest_first=False)
    flat_index, windows = (np.concatenate(both, axis=1) for both in zip(tops, samples, strict=True))
    filled = flat_index >= 0
    ids, row = np.unique(flat_index[filled] // size, return_inverse=True)
    example_context = np.full(flat_index.shape, -1, np.int32)
    example_context[filled] = row
    scale = np.where(np.isnan(max_act), 1, max_act)[:, None, None]
    return {
        "example_context": example_context,
        "example_position": np.where(filled, flat_index % size, 0).astype(np.int32),
        "heat": (windows / scale).astype(np.float16),
        "contexts": cache.array(Layout.contexts(settings.split)).take(ids),
        "documents": cache.array(Layout.documents(settings.split)).take(ids),
        "context_ids": ids.astype(np.int64),
    }


def _firings(sampled: SampledTokens, max_act: np.ndarray) -> Arrays:
    return {
        "firing_token": sampled.flat_index,
        "firing_count": sampled.num.astype(np.int32),
        "firing_latent": sampled.latents,
        "firing_act": (sampled.acts / max_act[sampled.latents]).astype(np.float16),
    }


def _logits(W_dec: torch.Tensor, testbed: Testbed, settings: Features) -> tuple[Arrays, str | None]:
    """Returns the arrays, or no arrays and the reason why."""
    if not settings.num_logits:
        return {}, "num_logits is 0"
    if testbed.is_of_crosscoders:
        return {}, "no logits: a crosscoder writes at several hooks"
    try:
        model = testbed.language_model.model
        rows = added_to_the_stream(model, HookPoint.parse(testbed.written), W_dec)
        return logits(model, rows, settings.num_logits), None
    except SaepipeError as error:
        return {}, f"no logits: {error.message}"

"""H9: degenerate SAEs, judged in inference mode on tokens that they were not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joined_rows import joined
from saepipe.data.folders.health import Finding
from saepipe.train.health_config import HealthConfig
from saepipe.train.sae.base import Architecture, Params, is_active
from saepipe.train.sae.transcoder import skipped, split_rows

CHUNK = 1024
"""Tokens encoded at once: 256 MiB of activations at d_sae 65,536."""


@dataclass(frozen=True)
class Behaviour:
    """Statistics of a finished SAE on a sample of tokens."""

    num_tokens: int
    l0: float  # active latents per token
    alive: float  # share of the latents that are active on any token of the sample
    dense: float  # share of the latents that are active on more than `dense_rate` of the tokens
    explained_variance: float  # 1 - |y - x_hat|^2 / |y - mean|^2, summed over the sample; y is the target, x in an SAE
    l2_ratio: float  # mean of |x_hat| / |y|


@torch.no_grad()
def measure_behaviour(sae: Architecture, params: Params, batches: Iterable[Tensor], dense_rate: float) -> Behaviour:
    """Measures an SAE in inference mode on batches (n, d_in) in the scale of its parameters.

    A transcoder's have its target beside x, (n, d_in + d_out).
    """
    d_sae, d_out = params["W_dec"].shape
    device = params["W_dec"].device
    num_active = torch.zeros(d_sae, dtype=torch.int64, device=device)
    total = torch.zeros(d_out, dtype=torch.float64, device=device)
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    num_tokens = 0
    for batch in batches:
        x, target = split_rows(batch.to(device, torch.float32), len(params["W_enc"]))
        acts = sae.encode(params, x)
        x_hat = sae.decode(params, acts)
        if (skip := skipped(params, x)) is not None:
            x_hat = x_hat + skip
        num_active += is_active(acts).sum(0)
        total += target.sum(0, dtype=torch.float64)
        ratios = torch.linalg.vector_norm(x_hat, dim=1) / torch.linalg.vector_norm(target, dim=1).clamp_min(1e-12)
        parts = ((target - x_hat).square().sum(1), target.square().sum(1), ratios)
        sums += torch.stack([part.sum(dtype=torch.float64) for part in parts])
        num_tokens += len(x)
    error, power, ratio = sums.tolist()
    variation = power - float(total.square().sum()) / num_tokens
    return Behaviour(
        num_tokens=num_tokens,
        l0=int(num_active.sum()) / num_tokens,
        alive=float((num_active > 0).double().mean()),
        dense=float((num_active > dense_rate * num_tokens).double().mean()),
        explained_variance=1 - error / variation,
        l2_ratio=ratio / num_tokens,
    )


def check_behaviour(
    sae: Behaviour, d_sae: int, dead: float, l0_target: float | None, limits: HealthConfig
) -> list[Finding]:
    """H9; `dead` is the share of latents dead at the end of training, `l0_target` the L0 that training steered to."""
    low, high = limits.norm_ratio
    most_l0 = limits.most_l0 * d_sae
    errors = [
        (sae.l0 < limits.least_l0, sae.l0, f"L0 is {{:.3g}}, below {limits.least_l0:g}; lower the sparsity weight"),
        (sae.l0 > most_l0, sae.l0, f"L0 is {{:.3g}}, above d_sae * {limits.most_l0:g}; raise the sparsity weight"),
        (
            sae.alive < limits.least_alive,
            sae.alive,
            f"only {{:.1%}} of the latents are active on any of {sae.num_tokens:,} tokens, below "
            f"{limits.least_alive:.0%}; lower the sparsity weight or resample dead latents",
        ),
        (
            not sae.explained_variance >= limits.least_variance,
            sae.explained_variance,
            f"the explained variance is {{:.3g}}, below {limits.least_variance:g}; "
            "train longer or lower the penalties' weights",
        ),
    ]
    warnings = [
        (
            dead > limits.most_dead,
            dead,
            f"{{:.0%}} of the latents are dead, above {limits.most_dead:.0%}; add auxk or set dead.resample_steps",
        ),
        (
            sae.dense > limits.most_dense,
            sae.dense,
            f"{{:.1%}} of the latents are active on more than {limits.dense_rate:.0%} of the tokens, above "
            f"{limits.most_dense:.0%} of the latents; raise the sparsity weight",
        ),
        (
            not low <= sae.l2_ratio <= high,
            sae.l2_ratio,
            f"|x_hat| averages {{:.3g}} times what it reconstructs, outside [{low:g}, {high:g}]; L1 shrinks "
            "reconstructions, TopK and JumpReLU do not",
        ),
    ]
    findings = [Finding.measured("H9", "error", pattern, value) for broken, value, pattern in errors if broken]
    findings += [Finding.measured("H9", "warning", pattern, value) for broken, value, pattern in warnings if broken]
    return findings + (check_l0(sae.l0, l0_target, limits) if l0_target else [])


def check_l0(l0: float, target: float, limits: HealthConfig) -> list[Finding]:
    """H9: a run that was steered to an L0 ends near it."""
    off = abs(l0 - target) / target
    if off <= limits.l0_warning:
        return []
    pattern = f"L0 is {{:.3g}}, {{:.0%}} off its target of {target:g}; train longer or start from a better weight"
    return [Finding.measured("H9", "error" if off > limits.l0_error else "warning", pattern, l0, off)]


def sample_rows(cache: Cache, hooks: Sequence[str], limit: int) -> Iterator[Tensor]:
    """Yields at most `limit` held-out tokens, or training rows if the cache has no held-out part.

    They are (n, d_in) bfloat16; activations of several hooks are side by side.
    """
    if cache.attributes["num_heldout_contexts"]:
        return _heldout_rows(cache, hooks, limit)
    return _training_rows(cache, hooks, limit)


def _heldout_rows(cache: Cache, hooks: Sequence[str], limit: int) -> Iterator[Tensor]:
    heldout = cache.heldout
    num_contexts, size = heldout.contexts.shape
    step = max(1, CHUNK // size)
    for start in range(0, num_contexts, step):
        stop = min(start + step, num_contexts)
        kept = torch.from_numpy(heldout.keep[start:stop])
        rows = torch.cat([heldout.activations(hook, start, stop)[kept][:limit] for hook in hooks], dim=1)
        limit -= len(rows)
        if len(rows):
            yield rows
        if not limit:
            return


def _training_rows(cache: Cache, hooks: Sequence[str], limit: int) -> Iterator[Tensor]:
    rows = joined([cache.rows(hook) for hook in hooks])
    for start in range(0, min(limit, rows.num_rows), CHUNK):
        bits = rows.read(start, min(start + CHUNK, limit, rows.num_rows))
        yield torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)

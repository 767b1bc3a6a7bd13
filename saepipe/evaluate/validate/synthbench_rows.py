"""Sizes of SynthSAEBench (arXiv 2602.14687) and training configs of the SAEs whose figures it publishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saepipe.data.synthetic import SynthBench

Raw = dict[str, Any]
WORLD = "synthbench-v2"
AUXK = {"name": "auxk", "weight": 0.2}
"""SAELens' coefficient of 1 is not divided by the error, which is a fifth of E|x|^2 here."""


@dataclass(frozen=True)
class Size:
    """The world, and how long SAEs are trained on it."""

    bench: SynthBench
    d_sae: int
    l0: float  # true L0 of the d_sae most frequent features
    groups: tuple[int, ...]  # of the Matryoshka
    batch_size: int
    lr: float
    num_samples: int
    num_held_out: int
    batches_at_once: int  # sampled together

    @property
    def steps(self) -> int:
        return self.num_samples // self.batch_size

    def __str__(self) -> str:
        return (
            f"{self.bench.num_features:,} features in {self.bench.d_in} dimensions, {self.d_sae:,} latents at L0 "
            f"{self.l0:g}, {self.num_samples:,} samples"
        )


SIZES = {
    "full": Size(
        SynthBench(),
        d_sae=4096,
        l0=25,
        groups=(128, 512, 2048),
        batch_size=1024,
        lr=3e-4,
        num_samples=200_000_000,
        num_held_out=1_000_000,
        batches_at_once=32,
    ),
    "cpu": Size(
        SynthBench(num_features=1024, d_in=128, num_roots=8, rates=(0.3, 1e-3)),
        d_sae=256,
        l0=4.2,
        groups=(8, 32, 128),
        batch_size=256,
        lr=1e-3,
        num_samples=1_000_000,
        num_held_out=100_000,
        batches_at_once=32,
    ),
}
"""`full` is the benchmark; `cpu` a world by the same recipe, whose figures compare its own rows and nothing else."""

PUBLISHED = {
    "batch_topk": (0.7316, 0.7574, 0.9837, 0.7923),
    "matryoshka": (0.8793, 0.7927, 0.9987, 0.7792),
    "matching_pursuit": (0.4464, 0.6930, 0.8281, 0.8351),
    "l1": (0.5562, 0.6039, 0.8976, 0.7654),
    "jumprelu": (0.7317, 0.7527, 0.9885, 0.7951),
}
"""F1, MCC, uniqueness and explained variance of the `full` size at L0 25 (SAELens' docs/synth_sae_bench.md)."""


def steered(penalty: str, l0: float) -> Raw:
    """Returns a sparsity penalty whose weight is steered to an L0."""
    return {"name": "l0_target", "l0": l0, "penalty": {"name": penalty, "weight": 1.0}}


def published_rows(size: Size) -> dict[str, Raw]:
    """Returns the parts of a training config that are a row's own, by name."""
    width = {"d_sae": size.d_sae}
    topk = {"k": size.l0, **width}
    jumprelu = {"name": "jumprelu", "bandwidth": 2.0, "initial_threshold": 0.5, **width}
    to_l0 = {"name": "l0", "target": size.l0, "bandwidth": 2.0, "weight": 1.0}  # thresholds lag behind a weight
    return {
        "l1": {"sae": {"name": "relu", **width}, "penalties": [steered("l1", size.l0)]},
        "batch_topk": {"sae": {"name": "batch_topk", **topk}, "penalties": [AUXK]},
        "matryoshka": {"sae": {"name": "matryoshka_batch_topk", "groups": size.groups, **topk}, "penalties": [AUXK]},
        "jumprelu": {"sae": jumprelu, "penalties": [to_l0, AUXK]},
        "matching_pursuit": {"sae": {"name": "matching_pursuit", "k": round(size.l0), **width}, "penalties": []},
    }


def training(size: Size, raw: Raw, seed: int) -> Raw:
    """Returns a row's training config: SAELens' rate without warm-up or decay, and latents dead after 1,000 steps."""
    optimizer = {"lr": size.lr, "warmup": 0.0, "decay": 0.0, "clip": None}
    dead = {"after_tokens": min(1000 * size.batch_size, size.num_samples // 20)}
    common = {"cache": "none", "steps": size.steps, "batch_size": size.batch_size, "seed": seed}
    init = {"encoder_scale": 1.0}  # W_enc is the transpose of W_dec, as in SAELens
    return common | {"optimizer": optimizer, "init": init, "dead": dead, **raw}

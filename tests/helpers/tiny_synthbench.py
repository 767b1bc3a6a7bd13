"""SynthSAEBench at a size that trains in a moment."""

from __future__ import annotations

from dataclasses import replace

from saepipe.data.synthetic import SynthBench
from saepipe.evaluate.validate.synthbench_rows import SIZES

TINY = replace(
    SIZES["cpu"],
    bench=SynthBench(num_features=80, d_in=12, num_roots=4, depth=1, rates=(0.3, 0.02), orthogonal_steps=2),
    d_sae=16,
    l0=3,
    groups=(4, 8),
    batch_size=32,
    num_samples=200,
    num_held_out=1024,
    batches_at_once=4,
)

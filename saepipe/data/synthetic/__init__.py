"""Synthetic worlds with known features, against which the latents of an SAE can be compared.

`World().truth(seed)` describes the features of a small world, and `draw` samples batches of its activations.
`SynthBench().world()` is that of SynthSAEBench-16k, and `draw_copula` samples from it.
"""

from __future__ import annotations

from saepipe.data.synthetic.bench16k import SynthBench
from saepipe.data.synthetic.copula_tokens import CopulaTokens, draw_copula
from saepipe.data.synthetic.copula_world import CopulaWorld
from saepipe.data.synthetic.saelens_world import read_saelens_world
from saepipe.data.synthetic.truth import Tokens, Truth, draw
from saepipe.data.synthetic.worlds import World

__all__ = [
    "CopulaTokens",
    "CopulaWorld",
    "SynthBench",
    "Tokens",
    "Truth",
    "World",
    "draw",
    "draw_copula",
    "read_saelens_world",
]

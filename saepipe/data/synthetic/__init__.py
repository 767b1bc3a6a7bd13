"""Synthetic worlds with known features, against which the latents of an SAE can be compared.

`World().truth(seed)` and `SynthBench().truth(seed)` describe the features in the activations; `draw` samples batches.
"""

from __future__ import annotations

from saepipe.data.synthetic.bench16k import SynthBench
from saepipe.data.synthetic.truth import Tokens, Truth, draw
from saepipe.data.synthetic.worlds import World

__all__ = ["SynthBench", "Tokens", "Truth", "World", "draw"]

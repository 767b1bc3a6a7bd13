"""Worlds whose features are known, so that what an SAE finds can be compared with what is there.

`World().truth(seed)` and `SynthBench().truth(seed)` say what is in the activations; `draw` makes batches of them.
"""

from __future__ import annotations

from saepipe.data.synthetic.bench16k import SynthBench
from saepipe.data.synthetic.truth import Tokens, Truth, draw
from saepipe.data.synthetic.worlds import World

__all__ = ["SynthBench", "Tokens", "Truth", "World", "draw"]

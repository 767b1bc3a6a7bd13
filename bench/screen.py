"""In 10^9 random entries the screen of a sparse step's encoder rules out none that is active.

    python bench/screen.py [--entries 1e9]

Every third of the draws has latents of lengths from 1e-8 to 1e8, and every third tokens of lengths from 1e-20 to 1e5.
Every second has scaled bfloat16 rows less a centre, as a run has them, and others any rows.
Biases leave 2 % of the first tokens' pre-activations above 0. Adversarial entries, placed within the bound of a
threshold, are in tests/train/sae/test_screen.py. Makes no claim about speed. Writes results/screen.json.
"""

from __future__ import annotations

import argparse

import torch
from record import write_result

from saepipe.train.sae import screen
from saepipe.train.sae.base import product
from saepipe.train.sae.relu import ReLU

CLAIM = "In 10^9 random entries the screen of a sparse step's encoder rules out none that is active"
D_IN, D_SAE, BATCH = 128, 4096, 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=float, default=1e9)
    args = parser.parse_args()
    screen.MOST_CANDIDATES = 1.0  # never leave a draw to the whole product
    counts = {"entries": 0, "active": 0, "candidates": 0, "missed": 0}
    draw = 0
    while counts["entries"] < args.entries:
        for name, count in count_draw(draw).items():
            counts[name] += count
        draw += 1
    write_result("screen", CLAIM, {**counts, "settings": {"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH}})
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()))


def count_draw(seed: int) -> dict[str, int]:
    """Counts the entries of one draw: all, those above 0, those that the screen leaves, and those that it misses."""
    rng = torch.Generator().manual_seed(seed)
    W, x = torch.randn(D_SAE, D_IN, generator=rng), torch.randn(BATCH, D_IN, generator=rng)
    if seed % 3 == 0:
        W *= torch.logspace(-8, 8, D_SAE)[:, None]
    if seed % 3 == 1:
        x *= torch.logspace(-20, 5, BATCH)[:, None]
    center, scale = torch.zeros(D_IN), 1.0
    if seed % 2 == 0:
        center, scale = 3 * torch.randn(D_IN, generator=rng), 0.0371
        x = ((x + center) / scale).bfloat16().float() * scale - center
    b_enc = -(x[:256] @ W.T).quantile(0.98, dim=0)
    params = {"W_enc": W.T, "b_enc": b_enc}
    screened = screen.Screen.of(params["W_enc"], b_enc, center, scale).entries(ReLU(d_sae=D_SAE), params, x)
    assert screened is not None
    candidates, _ = screened
    active, left = product(x, params["W_enc"], b_enc) > 0, candidates.dense(candidates.ones().bool())
    counted = {"active": active, "candidates": left, "missed": active & ~left}
    return {"entries": active.numel()} | {name: int(marks.sum()) for name, marks in counted.items()}


if __name__ == "__main__":
    main()

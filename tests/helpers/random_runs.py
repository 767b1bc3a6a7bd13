"""Finished runs of SAEs with drawn parameters, for what reads or writes an SAE and needs no training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.cache.cache import Cache
from saepipe.data.folders.artifact import write_json
from saepipe.data.folders.health import Health
from saepipe.train.config import TrainConfig
from saepipe.train.rundir import folder
from saepipe.train.rundir.load import open_run
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.seeds import generator
from saepipe.train.step.state import Recipe
from saepipe.train.variants import Variant

D_IN, D_SAE, K = 12, 40, 5  # awkward on purpose: no two alike, none a multiple of another but by accident
SCALE = 0.37
"""Of the activations in training; what is exported acts on raw ones."""

DRAWS = [(seed, mean) for seed in range(3) for mean in (0.0, 50.0)]
"""Seeds, with activations around 0 and far from it."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"k": K},
    "jumprelu": {},
    "gated": {},
    "batch_topk": {"k": K},
    "matryoshka_batch_topk": {"k": K, "groups": (7, 0.4, 1)},
}

CLASSES = {
    "relu": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
    "batch_topk": "BatchTopKSAE",
    "matryoshka_batch_topk": "MatryoshkaBatchTopKSAE",
}
"""What dictionary_learning calls them."""


def drawn_params(sae: Architecture, d_in: int, seed: int, mean: float) -> Params:
    """As training leaves them, in scaled units: unit decoder rows, b_dec near a mean of length `mean`, none at zero."""
    rng = generator(seed, "drawn")
    params = sae.init(d_in, 1.0, rng)
    W_dec = normalize(torch.randn(sae.d_sae, d_in, generator=rng), dim=1)
    own = {
        name: 0.1 + 0.4 * torch.rand(value.shape, generator=rng)
        for name, value in params.items()
        if name not in ("W_enc", "W_dec", "b_enc", "b_dec")
    }
    return {
        "W_enc": (W_dec.T + 0.1 * torch.randn(d_in, sae.d_sae, generator=rng)).contiguous(),
        "b_enc": 0.2 * torch.randn(sae.d_sae, generator=rng),
        "W_dec": W_dec,
        "b_dec": SCALE * (the_mean(d_in, mean) + 0.1 * torch.randn(d_in, generator=rng)),
        **own,
    }


def the_mean(d_in: int, length: float) -> Tensor:
    """(d_in,) of raw activations."""
    return length * normalize(torch.randn(d_in, generator=generator(0, "mean")), dim=0)


def rows(num_rows: int, d_in: int, seed: int, mean: float) -> Tensor:
    """(num_rows, d_in) float32 raw activations around `the_mean`."""
    return the_mean(d_in, mean) + torch.randn(num_rows, d_in, generator=generator(seed, "rows")) / SCALE


def drawn_run(out: Path, name: str, cache: Path, *, seed: int = 0, mean: float = 0.0, **settings: Any) -> Path:
    """A finished run whose SAE was drawn and not trained; otherwise as training leaves one."""
    opened = Cache.open(cache)
    raw = {"cache": str(cache), "sae": {"name": name, "d_sae": D_SAE, **ARCHITECTURES[name], **settings}, "seed": seed}
    config = TrainConfig.parse({**raw, "steps": 3, "device": "cpu", "batch_size": 64, "hook": opened.hooks[0]})
    config = config.resolved(hook=opened.hooks[0], num_rows=opened.num_tokens, device=torch.device("cpu"))
    recipe = Recipe(config, opened.d_in, SCALE, torch.device("cpu"))
    variant = Variant(name, seed, config)
    header = folder.header(out, variant, recipe, opened)
    folder.begin(out, recipe, header)
    Health().write(out)
    params = drawn_params(config.sae, opened.d_in, seed, mean)
    state: Any = SimpleNamespace(all_params=params, step=3)
    folder.finish(out, recipe, state, header, folder.sae_metadata(header, recipe, opened))
    return out


def write_evaluation(run: Path, density: list[float]) -> None:
    """`eval/core.json` with as much of it as an export reads."""
    details = [{"index": index, "feature_density": share} for index, share in enumerate(density)]
    result = {"eval_result_details": details, "eval_result_metrics": {"sparsity": {"l0": 4.5}}}
    result["saepipe"] = {"fingerprints": {"run": open_run(run).fingerprint}}
    write_json(run / "eval" / "core.json", result)


def decided(sae: Architecture, params: Params, x: Tensor, margin: float = 1e-3) -> Tensor:
    """The rows (num_decided, d_in) of x in which rounding cannot turn a latent on or off; most of them.

    By float64: a jumprelu's pre-activations are off their thresholds, a gate's off 0, a top-k's k-th off the next.
    """
    wide = {name: value.detach().double() for name, value in params.items()}
    pre_acts = (x.double() - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"]
    if sae.name == "topk":
        largest = pre_acts.topk(int(sae.num_active or 0) + 1, dim=-1).values
        off = largest[:, -2] - largest[:, -1]
    elif sae.name in ("jumprelu", "gated"):
        off = (pre_acts - wide.get("threshold", torch.zeros(()))).abs().amin(dim=-1)
    else:
        off = torch.full((len(x),), torch.inf)
    assert (off > margin).double().mean() > 0.7
    return x[off > margin]

"""Finished runs of SAEs with random parameters, for tests that read or write an SAE and need no training."""

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
from saepipe.train.rundir import folder, run_files
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.transcoder import transcoder_params
from saepipe.train.seeds import generator
from saepipe.train.step.state import Recipe, Target
from saepipe.train.variants import Variant

D_IN, D_SAE, K = 12, 40, 5  # all different, so that mixed-up axes show
SCALE = 0.37
"""Scale of the activations in training; exported SAEs act on raw activations."""

SAMPLES = [(seed, mean) for seed in range(3) for mean in (0.0, 50.0)]
"""Seeds, each with activations around 0 and far from it."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"k": K},
    "jumprelu": {},
    "gated": {},
    "batch_topk": {"k": K},
    "matryoshka_batch_topk": {"k": K, "groups": (7, 0.4, 1)},
}

OURS_AND_SAELENS = {**ARCHITECTURES, "matching_pursuit": {"k": K}}
"""With those that no other library has."""

CLASSES = {
    "relu": "AutoEncoder",
    "topk": "AutoEncoderTopK",
    "jumprelu": "JumpReluAutoEncoder",
    "gated": "GatedAutoEncoder",
    "batch_topk": "BatchTopKSAE",
    "matryoshka_batch_topk": "MatryoshkaBatchTopKSAE",
}
"""dictionary_learning's names of the architectures."""


def random_params(sae: Architecture, d_in: int, seed: int, mean: float) -> Params:
    """Returns parameters as after training, scaled: unit decoder rows, b_dec near a mean of length `mean`, no zeros."""
    rng = generator(seed, "drawn")
    params = sae.init(d_in, 1.0, rng)
    W_dec = normalize(torch.randn(sae.d_sae, d_in, generator=rng), dim=1)
    extra = {
        name: 0.1 + 0.4 * torch.rand(value.shape, generator=rng)
        for name, value in params.items()
        if name not in ("W_enc", "W_dec", "b_enc", "b_dec")
    }
    return {
        "W_enc": (W_dec.T + 0.1 * torch.randn(d_in, sae.d_sae, generator=rng)).contiguous(),
        "b_enc": 0.2 * torch.randn(sae.d_sae, generator=rng),
        "W_dec": W_dec,
        "b_dec": SCALE * (mean_activation(d_in, mean) + 0.1 * torch.randn(d_in, generator=rng)),
        **extra,
    }


def mean_activation(d_in: int, length: float) -> Tensor:
    """Returns the mean of raw activations, (d_in,), with the given length."""
    return length * normalize(torch.randn(d_in, generator=generator(0, "mean")), dim=0)


def rows(num_rows: int, d_in: int, seed: int, mean: float) -> Tensor:
    """Returns raw activations (num_rows, d_in) float32 around `mean_activation`."""
    return mean_activation(d_in, mean) + torch.randn(num_rows, d_in, generator=generator(seed, "rows")) / SCALE


def random_run(out: Path, name: str, cache: Path, *, seed: int = 0, mean: float = 0.0, **settings: Any) -> Path:
    """Writes a finished run whose SAE has random parameters; all else is as training leaves it."""
    opened = Cache.open(cache)
    raw = {"cache": str(cache), "sae": {"name": name, "d_sae": D_SAE, **OURS_AND_SAELENS[name], **settings}}
    raw |= {"seed": seed}
    config = TrainConfig.parse({**raw, "steps": 3, "device": "cpu", "batch_size": 64, "hook": opened.hooks[0]})
    config = config.resolved(hook=opened.hooks[0], num_rows=opened.num_tokens, device=torch.device("cpu"))
    recipe = Recipe(config, opened.d_in, SCALE, torch.device("cpu"))
    variant = Variant(name, seed, config)
    header = folder.header(variant, recipe, opened, {})
    folder.begin(out, recipe, header)
    (out / run_files.METRICS).write_bytes(b"")
    Health().write(out)
    params = random_params(config.sae, opened.d_in, seed, mean)
    state: Any = SimpleNamespace(all_params=params, step=3)
    folder.finish(out, recipe, state, header, folder.sae_metadata(header, recipe, opened))
    return out


TRANSCODER_HOOKS = "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"
"""What a random transcoder reads and writes; a cache must have both."""


def random_transcoder(out: Path, name: str, cache: Path, *, skip: bool, seed: int = 0) -> Path:
    """Writes a finished run of a transcoder with random parameters, none of them 0."""
    opened, (hook, target) = Cache.open(cache), TRANSCODER_HOOKS
    raw = {"cache": str(cache), "sae": {"name": name, "d_sae": D_SAE, **ARCHITECTURES[name]}, "seed": seed, "steps": 3}
    raw |= {"hook": hook, "target": target, "skip": skip, "device": "cpu", "batch_size": 64}
    config = TrainConfig.parse(raw).resolved(hook=hook, num_rows=opened.num_tokens, device=torch.device("cpu"))
    d_in, d_out, rng = opened.widths[hook], opened.widths[target], generator(seed, "across")
    recipe = Recipe(config, d_in, SCALE, torch.device("cpu"), Target(d_out, 2 * SCALE))
    variant = Variant(name, seed, config)
    header = folder.header(variant, recipe, opened, {})
    folder.begin(out, recipe, header)
    (out / run_files.METRICS).write_bytes(b"")
    Health().write(out)
    params = transcoder_params(random_params(config.sae, d_out, seed, 1.0), d_in, 1.0, rng, skip=skip)
    moved = {key: 0.3 * torch.randn(params[key].shape, generator=rng) for key in ("b_in", "W_skip") if key in params}
    state: Any = SimpleNamespace(all_params=params | moved, step=3)
    folder.finish(out, recipe, state, header, folder.sae_metadata(header, recipe, opened))
    return out


def write_evaluation(run: Path, density: list[float]) -> None:
    """Writes the part of `eval/core.json` that an export reads."""
    details = [{"index": index, "feature_density": share} for index, share in enumerate(density)]
    result = {"eval_result_details": details, "eval_result_metrics": {"sparsity": {"l0": 4.5}}}
    result["saepipe"] = {"fingerprints": {"run": open_run(run).fingerprint}}
    write_json(run / "eval" / "core.json", result)


def clear_rows(sae: Architecture, params: Params, x: Tensor, margin: float = 1e-3) -> Tensor:
    """Returns the rows of x (batch, d_in), most of them, in which rounding cannot turn a latent on or off.

    In float64, a jumprelu's pre-activations must be off their thresholds, a gate's off 0, a top-k's k-th off the next,
    and the largest of each step of a matching pursuit off the next.
    """
    wide = {name: value.detach().double() for name, value in params.items()}
    pre_acts = (x.double() - wide["b_dec"]) @ wide["W_enc"] + wide["b_enc"]
    if sae.name == "topk":
        largest = pre_acts.topk(int(sae.num_active or 0) + 1, dim=-1).values
        distance = largest[:, -2] - largest[:, -1]
    elif sae.name == "matching_pursuit":
        distance = _least_lead(x.double() - wide["b_dec"], wide["W_dec"], int(sae.num_active or 0))
    elif sae.name in ("jumprelu", "gated"):
        distance = (pre_acts - wide.get("threshold", torch.zeros(()))).abs().amin(dim=-1)
    else:
        distance = torch.full((len(x),), torch.inf)
    assert (distance > margin).double().mean() > 0.7
    return x[distance > margin]


def _least_lead(residual: Tensor, W_dec: Tensor, num_steps: int) -> Tensor:
    """Returns how far the latent of each step is at least ahead of the next, (num_rows,)."""
    leads = []
    for _ in range(num_steps):
        values, latents = (residual @ W_dec.T).topk(2)
        leads.append(values[:, 0] - values[:, 1])
        residual = residual - values[:, :1] * W_dec[latents[:, 0]]
    return torch.stack(leads).amin(0)

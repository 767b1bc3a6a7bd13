"""Writes sparsify's run folder with one hookpoint: `config.json`, `layers.19/{cfg.json, sae.safetensors}`.

`SparseCoder.load_from_disk(out / "layers.19")` and `SparseCoder.load_many(out, local=True)` read it. The top-k is the
only activation function that its SAEs and ours share.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_file, write_json
from saepipe.train.formats.into.base import Outgoing
from saepipe.train.formats.rewrites import are_unit, decoder_norms
from saepipe.train.formats.sparsify import CONFIG, KEYS, RUN, WEIGHTS
from saepipe.train.sae.topk import TopK

LIBRARY = "sparsify"


def write(folder: Path, sae: Outgoing) -> None:
    """Writes the folder; raises ConfigError if it is not a topk SAE, or sparsify has no name for its hook."""
    sae.refuse_transcoder(LIBRARY)
    if not isinstance(sae.sae, TopK):
        trained = f" (trained as a {sae.trained.name})" if sae.trained and sae.trained.name != sae.sae.name else ""
        raise ConfigError(
            f"{LIBRARY} supports only topk, but this SAE is a {sae.sae.name}{trained}",
            hint="use --to saelens" if sae.sae.tied else "use --to saelens or dictionary_learning, which support it",
        )
    hookpoint = f"layers.{sae.layer_before(LIBRARY)}"
    config = {
        "activation": "topk",
        "expansion_factor": max(1, round(sae.d_sae / sae.d_in)),  # used only if num_latents is 0
        "normalize_decoder": are_unit(decoder_norms(sae.params)),
        "num_latents": sae.d_sae,
        "k": sae.sae.kept,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
    }
    tensors = {**sae.params, "W_enc": sae.params["W_enc"].T.contiguous()}
    write_file(folder / hookpoint / WEIGHTS, save({theirs: tensors[ours] for ours, theirs in KEYS.items()}))
    write_json(folder / hookpoint / CONFIG, {**config, "d_in": sae.d_in})
    run = {
        "sae": config,
        "hookpoints": [hookpoint],
        "init_seeds": [] if sae.seed is None else [sae.seed],
        "model": sae.model,
        "dataset": sae.dataset,
        "ctx_len": sae.context_size,
        "saepipe": sae.origin,
    }
    write_json(folder / RUN, run)

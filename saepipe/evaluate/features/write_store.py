"""Writes a feature store, which is checked and appears complete.

The arrays of `features.safetensors`, where num_slots = num_top + num_quantiles * per_quantile:

    num_active                       int64 (d_sae,)   tokens on which the latent is active
    mean_act, max_act, decoder_norm  float32 (d_sae,)   the first two over those tokens, NaN if there are none
    histogram                        int32 (d_sae, num_bins);   histogram_edges   float32 (num_bins + 1,)
    example_context                  int32 (d_sae, num_slots)   row of `contexts`; -1: no example. First the top, the
                                     strongest first, then the sample, the weakest first
    example_position                 int32 (d_sae, num_slots)   position of the peak in its context
    heat                             float16 (d_sae, num_slots, window)   activation / max_act; NaN: unknown
    contexts, documents              int32 (num_kept_contexts, context_size);   context_ids   int64 (num_kept_contexts,)
    neighbours, neighbour_cosine     int32, float32 (d_sae, num_neighbours)   -1 and NaN: no latent
    coactive, coactive_score         int32, float32 (d_sae, num_neighbours)   -1 and NaN: no latent
    firing_token, firing_count       int64, int32 (num_sampled,)   random tokens: context * context_size + position, and
                                     the number of latents active there
    firing_latent, firing_act        int32, float16 (firing_count.sum(),)   those latents, token by token, and their
                                     activation / max_act
    positive_ids, positive_values    int32, float32 (d_sae, num_logits)   absent if the info gives a reason
    negative_ids, negative_values    int32, float32 (d_sae, num_logits)   absent if the info gives a reason
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from saepipe.data.bucket_address import shown
from saepipe.data.folders import artifact
from saepipe.data.remote.places import writer_lock
from saepipe.evaluate.features.store import ARRAYS, INFO, RUN_PATH, TOKENS, StoreInfo


def write_features(
    folder: Path,
    info: StoreInfo,
    arrays: Mapping[str, np.ndarray],
    texts: Mapping[int, str],
    request: Mapping[str, Any],
    *,
    run: Path | None = None,
) -> str:
    """Writes the store, replacing an older one.

    Args:
        folder: the store's folder.
        info: origin and sizes of the store.
        arrays: as listed above.
        texts: text of every token id in contexts and logits; empty if the tokenizer is unavailable.
        request: plain data: everything that the content depends on.
        run: the run's folder, if it is not the parent of `folder`.

    Returns:
        The store's fingerprint.

    Raises:
        LockedError: if another process is writing the store now.
    """
    _check(info, arrays)
    with writer_lock(folder):
        (folder / artifact.COMMITTED).unlink(missing_ok=True)
        (folder / RUN_PATH).unlink(missing_ok=True)
        if run is not None and run.absolute() != folder.absolute().parent:
            artifact.write_file(folder / RUN_PATH, f"{shown(run.absolute())}\n".encode())
        _write_arrays(folder / ARRAYS, arrays)
        ids = sorted(texts)
        artifact.write_json(folder / TOKENS, {"ids": ids, "texts": [texts[token] for token in ids]})
        artifact.write_json(folder / INFO, asdict(info))
        files = artifact.digest_files(folder, [ARRAYS, TOKENS, INFO])
        header = {"kind": "features", "run": info.run, "cache": info.cache, "request": dict(request)}
        artifact.rewrite_manifest(folder, [header | {"provenance": dict(artifact.provenance()), "files": files}])
        return artifact.commit(folder)


def _check(info: StoreInfo, arrays: Mapping[str, np.ndarray]) -> None:
    """Asserts what the reader relies on."""
    slots = info.num_top + info.num_quantiles * info.per_quantile
    assert arrays["heat"].shape == (info.d_sae, slots, info.window)
    assert arrays["example_context"].shape == arrays["example_position"].shape == (info.d_sae, slots)
    assert arrays["contexts"].shape == arrays["documents"].shape == (len(arrays["context_ids"]), info.context_size)
    assert info.window <= info.context_size
    assert ("positive_ids" in arrays) == (info.no_logits is None)


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes like `artifact.write_file`, without a second copy in memory."""
    with artifact.atomic_file(path, sum(array.nbytes for array in arrays.values())) as partial:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial)

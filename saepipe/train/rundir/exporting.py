"""A run's SAE in the folder of another library: the same activations and reconstructions there as here.

Raw activations go in and come out. The one rescaling: an AutoEncoder of dictionary_learning has decoder rows of unit
norm, and activations in their unit; the rows of an SAE that was trained here are so already.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.atomic_folder import whole_folder
from saepipe.train.formats.into import dictionary_learning, saelens, sparsify
from saepipe.train.formats.into.base import Outgoing
from saepipe.train.rundir.importing import ImportConfig
from saepipe.train.rundir.load import Run, load, open_run

Library = Literal["saelens", "dictionary_learning", "sparsify"]

WRITERS: dict[Library, Callable[[Path, Outgoing], None]] = {
    "saelens": saelens.write,
    "dictionary_learning": dictionary_learning.write,
    "sparsify": sparsify.write,
}
assert WRITERS.keys() == set(get_args(Library))


def export_sae(run: Run | Path | str, library: Library, out: Path) -> Path:
    """Writes a run's SAE as a library keeps its own; the same export again changes nothing.

    Args:
        run: finished, trained here or imported.
        library: that shall read it; it need not be installed.
        out: a new folder, or an empty one.

    Returns:
        `out`.

    Raises:
        ConfigError: if the library has no form for this SAE, or `out` holds something else.
        CorruptDataError: if the run is not finished, or damaged.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    with whole_folder(out) as partial:
        WRITERS[library](partial, outgoing(opened))
    return out


def outgoing(run: Run) -> Outgoing:
    """The SAE of a run, and what is known of it."""
    sae, trained = load(run), run.trained
    metadata: dict[str, Any] = dict(sae.metadata)
    if isinstance(run.config, ImportConfig) and run.config.imported == "saelens":
        metadata = {**(run.config.said.get("metadata") or {}), **metadata}
    density, l0 = _evaluated(run)
    return Outgoing(
        sae=sae.settings,
        params={name: value.detach() for name, value in sae.named_parameters()},
        trained=trained.sae if trained else None,
        hook=run.hook,
        model=metadata["model_name"],
        dataset=metadata.get("dataset_path"),
        context_size=metadata["context_size"],
        seed=run.config.seed if isinstance(run.config, ImportConfig) else run.seed,
        lr=trained.optimizer.lr if trained else None,
        steps=metadata["saepipe"].get("steps"),
        metadata=metadata,
        density=density,
        l0=l0,
        origin={**metadata["saepipe"], "variant": run.variant, "fingerprint": run.fingerprint},
    )


def _evaluated(run: Run) -> tuple[torch.Tensor | None, float | None]:
    """Density (d_sae,) float64 and l0 by `eval/core.json`, where that is of this very run."""
    path = run.path / "eval" / "core.json"
    if not path.is_file():
        return None, None
    try:
        result = json.loads(path.read_text())
        if result["saepipe"]["fingerprints"]["run"] != run.fingerprint:
            return None, None
        density = [row["feature_density"] for row in result["eval_result_details"]]
        l0 = result["eval_result_metrics"]["sparsity"]["l0"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{path} is no result of ours: {error!r}", hint="evaluate the run again") from None
    return torch.tensor(density, dtype=torch.float64) if density else None, l0

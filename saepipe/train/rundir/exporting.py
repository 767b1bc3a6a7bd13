"""Export of a run's SAE to the format of another library, with the same activations and reconstructions.

Input and output are raw activations. Only dictionary_learning's AutoEncoder needs a rescaling: its decoder rows have
unit norm and its activations change accordingly. Rows of SAEs that were trained here already have unit norm.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.sealed_result import read_result
from saepipe.data.remote.places import new_folder
from saepipe.train.formats.into import circuit_tracer, dictionary_learning, saelens, sparsify
from saepipe.train.formats.into.base import Outgoing
from saepipe.train.rundir.finished_run import Run, open_run
from saepipe.train.rundir.import_config import ImportConfig
from saepipe.train.rundir.load import load

Library = Literal["saelens", "dictionary_learning", "sparsify", "circuit-tracer"]

WRITERS: dict[Library, Callable[[Path, Outgoing], None]] = {
    "saelens": saelens.write,
    "dictionary_learning": dictionary_learning.write,
    "sparsify": sparsify.write,
    "circuit-tracer": circuit_tracer.write,
}
assert WRITERS.keys() == set(get_args(Library))


def export_sae(run: Run | Path | str, library: Library, out: Path) -> Path:
    """Writes a run's SAE in the format of a library; repeating an export changes nothing.

    Args:
        run: finished, trained here or imported.
        library: that will read it; it need not be installed.
        out: a new folder, or an empty one.

    Returns:
        `out`.

    Raises:
        ConfigError: if the library's format cannot represent this SAE, or `out` holds something else.
        CorruptDataError: if the run is unfinished or damaged.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    opened.refuse_crosscoder(f"an export to {library}")
    with new_folder(out) as partial:
        WRITERS[library](partial, outgoing(opened))
    return out


def outgoing(run: Run) -> Outgoing:
    """Returns the SAE of a run, with its metadata and evaluation."""
    sae, imported = load(run), run.imported
    trained = None if isinstance(run.config, ImportConfig) else run.config
    metadata: dict[str, Any] = dict(sae.metadata)
    if imported and imported.imported == "saelens":
        metadata = {**(imported.said.get("metadata") or {}), **metadata}
    density, l0 = _density_and_l0(run)
    return Outgoing(
        sae=sae.settings,
        params={name: value.detach() for name, value in sae.named_parameters()},
        trained=trained.sae if trained else None,
        hook=run.hook,
        target=run.target,
        model=metadata["model_name"],
        dataset=metadata.get("dataset_path"),
        context_size=metadata["context_size"],
        seed=imported.seed if imported else run.seed,
        lr=trained.optimizer.lr if trained else None,
        steps=metadata["saepipe"].get("steps"),
        metadata=metadata,
        density=density,
        l0=l0,
        origin={**metadata["saepipe"], "variant": run.variant, "fingerprint": run.fingerprint},
    )


def _density_and_l0(run: Run) -> tuple[torch.Tensor | None, float | None]:
    """Returns density (d_sae,) float64 and L0 from `eval/core.json`, None if it is missing or of another run."""
    path = run.path / "eval" / "core.json"
    if not path.is_file():
        return None, None
    try:
        result = read_result(path)
        if result["saepipe"]["fingerprints"]["run"] != run.fingerprint:
            return None, None
        density = [row["feature_density"] for row in result["eval_result_details"]]
        l0 = result["eval_result_metrics"]["sparsity"]["l0"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptDataError(f"{path} is malformed: {error!r}", hint="evaluate the run again") from None
    return torch.tensor(density, dtype=torch.float64) if density else None, l0

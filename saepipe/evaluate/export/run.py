"""Exports a run for another tool: its SAE, or the data on its latents."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from saepipe.data.errors import ConfigError
from saepipe.data.remote.places import folder_of
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.export.delphi import export_delphi
from saepipe.evaluate.export.neuronpedia import export_neuronpedia
from saepipe.train.rundir.exporting import Library, export_sae

Target = Literal["saelens", "dictionary_learning", "sparsify", "circuit-tracer", "neuronpedia", "delphi"]


def export(
    run: Path | str, target: Target, out: Path | str, /, *, progress: Progress | None = None, **settings: Any
) -> Path:
    """Writes a folder, which appears complete unless it is in a bucket; repeating the same export changes nothing.

    Args:
        run: a finished run.
        target: the tool to export to.
        out: a new folder, or an empty one; or its address in a bucket.
        progress: receives the progress of the export.
        settings: keyword arguments of `export_neuronpedia` or `export_delphi`, if one of them is the target.

    Returns:
        The folder that was written.

    Raises:
        ConfigError: if the target cannot represent the SAE, a setting does not exist, or `out` holds something else.
        CorruptDataError: if the run, its cache or its feature store is damaged.

    Example:
        >>> sp.export("runs/base/seed-0", "saelens", "exported")
    """
    writer = _writer(target)
    parameters = inspect.signature(writer).parameters
    settable = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name != "progress"]
    for name in settings:
        if name not in settable:
            near = difflib.get_close_matches(name, settable, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(settable) or 'none'}"
            raise ConfigError(f"an export to {target} has no setting {name!r}", hint=hint)
    reporting = {"progress": progress or Silent()} if "progress" in parameters else {}
    return writer(run, folder_of(out), **reporting, **settings)


def _writer(target: Target) -> Callable[..., Path]:
    if target == "neuronpedia":
        return export_neuronpedia
    if target == "delphi":
        return export_delphi
    if target not in get_args(Library):
        raise ConfigError(f"{target!r} is not an export target", hint=f"choose {', '.join(get_args(Target))}")
    library = target
    return lambda run, out: export_sae(run, library, out)

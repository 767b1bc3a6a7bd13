"""A run as other tools read it: its SAE, or what is known of its latents."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.export.delphi import export_delphi
from saepipe.evaluate.export.neuronpedia import export_neuronpedia
from saepipe.train.rundir.exporting import Library, export_sae

Target = Literal["saelens", "dictionary_learning", "sparsify", "neuronpedia", "delphi"]


def export(
    run: Path | str, target: Target, out: Path | str, /, *, progress: Progress | None = None, **settings: Any
) -> Path:
    """Writes a folder that appears whole; the same export again changes nothing.

    Args:
        run: a finished run.
        target: the tool that is to read it.
        out: a new folder, or an empty one.
        progress: told where it stands.
        settings: of `export_neuronpedia` or `export_delphi`, where one of these is the target.

    Returns:
        What was written.

    Raises:
        ConfigError: if the target cannot say what the SAE does, has no such setting, or `out` holds something else.
        CorruptDataError: if the run, its cache or its feature store is damaged.
    """
    writer = _writer(target)
    known = inspect.signature(writer).parameters
    settable = [name for name, one in known.items() if one.kind is one.KEYWORD_ONLY and name != "progress"]
    for name in settings:
        if name not in settable:
            near = difflib.get_close_matches(name, settable, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(settable) or 'none'}"
            raise ConfigError(f"an export to {target} has no setting {name!r}", hint=hint)
    told = {"progress": progress or Silent()} if "progress" in known else {}
    return writer(run, Path(out), **told, **settings)


def _writer(target: Target) -> Callable[..., Path]:
    if target == "neuronpedia":
        return export_neuronpedia
    if target == "delphi":
        return export_delphi
    if target not in get_args(Library):
        raise ConfigError(f"nothing is exported to {target!r}", hint=f"known: {', '.join(get_args(Target))}")
    library = target
    return lambda run, out: export_sae(run, library, out)

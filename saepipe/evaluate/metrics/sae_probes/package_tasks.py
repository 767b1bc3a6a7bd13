"""The 113 binary tasks whose texts are in the wheel of sae-probes 0.4, read where pip put it; nothing is imported."""

from __future__ import annotations

import difflib
from importlib.util import find_spec
from pathlib import Path

from saepipe.data.errors import ConfigError
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.harvest.local_rows import csv_rows

PACKAGE = "sae-probes"
"""Name that a config gives for all tasks; `sae-probes/NAME` is one."""

_MASTER = "probing_datasets_MASTER.csv.zst"
"""Table of all data sets that the package's authors gathered; 113 of 155 are binary."""


def is_package_task(name: str) -> bool:
    """Returns whether a config's name means tasks of the package."""
    return name.partition("/")[0] == PACKAGE


def package_tasks(name: str) -> list[LabelledDatasetConfig]:
    """Returns the tasks that `sae-probes` or `sae-probes/NAME` means, in the package's order.

    Raises:
        ConfigError: if the package is not installed, or has no such task.
    """
    folder = _data_folder()
    names = _task_names(folder)
    _, _, wanted = name.partition("/")
    if wanted and wanted not in names:
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {names[0]}, {names[1]} and {len(names) - 2} others"
        raise ConfigError(f"sae-probes has no binary task {wanted!r}", hint=hint)
    return [_task(folder, each) for each in ([wanted] if wanted else names)]


def _data_folder() -> Path:
    spec = find_spec("sae_probes")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "the texts of sae-probes' tasks are in its wheel, which is not installed here",
            hint="`pip install --no-deps sae-probes==0.4.2`, or give datasets of your own",
        )
    return Path(spec.origin).parent / "data"


def _task_names(folder: Path) -> list[str]:
    """Returns names such as `5_hist_fig_ismale`, those of the files without their ending."""
    rows = csv_rows(folder / _MASTER, "utf-8", header=True)
    files = [row["Dataset save name"] for row in rows if row["Data type"] == "Binary Classification"]
    return [Path(file).name.removesuffix(".csv") for file in files]


def _task(folder: Path, name: str) -> LabelledDatasetConfig:
    source = folder / "cleaned_data" / f"{name}.csv.zst"
    return LabelledDatasetConfig(name=f"{PACKAGE}/{name}", source=str(source), text=("prompt",), label="target")

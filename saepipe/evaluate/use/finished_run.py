"""A finished run as users open it: with the figures of its evaluations."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from saepipe.evaluate.results.run_results import Cell, read_metrics
from saepipe.train.rundir import finished_run as rundir


class Run(rundir.Run):
    """A finished run, whose files are as its manifest lists them.

    Example:
        >>> run = sp.open_run("runs/baseline/seed-0")
        >>> run.metrics["core"]["explained_variance"].value
    """

    @property
    def metrics(self) -> dict[str, dict[str, Cell]]:
        """Figures of its evaluations by metric and key: `value`, with `low` and `high` if it has a 95 % interval.

        Read anew each time, since an evaluation may have been made in the meantime. Results of an earlier run in this
        folder are left out.

        Raises:
            CorruptDataError: if a result is damaged.
        """
        return read_metrics(self)


def open_run(path: Path | str) -> Run:
    """Opens a finished run and verifies its files.

    Args:
        path: the run's folder, as `train` returns it.

    Raises:
        CorruptDataError: if it is unfinished, is not a run, or its files have changed.

    Example:
        >>> run = sp.open_run("runs/baseline/seed-0")
        >>> run.variant, run.seed, run.hook
    """
    run = rundir.open_run(path)
    return Run(**{field.name: getattr(run, field.name) for field in fields(run)})

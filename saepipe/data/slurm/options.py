"""Options of sbatch as `--sbatch` gives them: `partition=gpu`, `time=8:00:00`, `exclusive`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from saepipe.data.errors import ConfigError

Options = dict[str, str | None]
"""Value of each option by its long name, without dashes; None if it has no value."""


def read_options(given: Iterable[str]) -> Options:
    """Reads `KEY=VALUE` and `KEY`; a later option replaces an earlier one.

    Raises:
        ConfigError: if one has no long name, or a value of several lines.
    """
    options: Options = {}
    for option in given:
        match = re.fullmatch(r"-*([a-z][a-z0-9-]+)(?:=([^\n\r]*))?", option)
        if match is None:
            raise ConfigError(
                f"--sbatch {option!r} is no option of sbatch", hint="--sbatch time=8:00:00, by long names"
            )
        options[match[1]] = match[2]
    return options


def as_line(name: str, value: str | None) -> str:
    """Returns the line of a batch script for an option; a value that sbatch would split or unquote is quoted."""
    if value is not None and re.search(r"[^A-Za-z0-9_./:,@%+=*\[\]-]", value):
        value = '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
    return f"#SBATCH --{name}" if value is None else f"#SBATCH --{name}={value}"


def num_tasks(options: Options) -> int:
    """Returns the number of tasks of a job array; 1 if it is none.

    Raises:
        ConfigError: if the tasks are not numbered from 1 without a gap, as shares of the work are.
    """
    array = options.get("array", "1-1")
    match = re.fullmatch(r"1-([1-9][0-9]*)(%[1-9][0-9]*)?", array or "")
    if match is None:
        raise ConfigError(
            f"array={array} does not number the shares of the work",
            hint="eight shares are array=1-8, of which array=1-8%2 runs two at a time",
        )
    return int(match[1])


def ranks_per_node(options: Options) -> int | None:
    """Returns the number of processes of one command on each node; None if a single process is asked for.

    Raises:
        ConfigError: if the number is not said in the one way that says where each rank is.
    """
    if "ntasks" in options:
        raise ConfigError("ntasks does not say where each rank is", hint="--sbatch nodes=2 --sbatch ntasks-per-node=8")
    several_nodes, given = options.get("nodes", "1") != "1", options.get("ntasks-per-node")
    if not given:
        return 1 if several_nodes else None
    if not given.isdecimal() or given == "0":
        raise ConfigError(f"ntasks-per-node={given} is no number of ranks", hint="--sbatch ntasks-per-node=8")
    return int(given) if several_nodes or given != "1" else None

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
    nodes, given = num_nodes(options), options.get("ntasks-per-node", "1")
    ranks = _number(given, f"ntasks-per-node={given} is no number of ranks", "--sbatch ntasks-per-node=8")
    return ranks if nodes > 1 or ranks > 1 else None


def num_nodes(options: Options) -> int:
    """Returns the number of nodes.

    Raises:
        ConfigError: if it is left open, since all ranks are known when a command starts.
    """
    given = options.get("nodes", "1")
    return _number(given, f"nodes={given} leaves the number of ranks open", "--sbatch nodes=2")


def _number(text: str | None, problem: str, hint: str) -> int:
    """Reads a whole number from 1; raises ConfigError with the problem for anything else."""
    if not re.fullmatch("[1-9][0-9]*", text or ""):
        raise ConfigError(problem, hint=hint)
    return int(text or "")

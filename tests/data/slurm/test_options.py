"""Options of sbatch: read, written so that sbatch reads the same, and refused if they do not say enough."""

from __future__ import annotations

import pytest

from saepipe.data.errors import ConfigError
from saepipe.data.slurm.options import as_line, num_nodes, num_tasks, ranks_per_node, read_options

pytestmark = pytest.mark.quick


def test_options_are_read_and_the_last_one_holds() -> None:
    given = ["partition=gpu", "--time=1", "exclusive", "time=8:00:00", "comment=a=b"]
    assert read_options(given) == {"partition": "gpu", "time": "8:00:00", "exclusive": None, "comment": "a=b"}


@pytest.mark.parametrize("wrong", ["", "=gpu", "p=gpu", "Time=1", "time=1\n#SBATCH --uid=0", "time 1"])
def test_what_is_no_option_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is no option of sbatch"):
        read_options([wrong])


def test_lines_quote_what_sbatch_would_split() -> None:
    assert as_line("array", "1-8%2") == "#SBATCH --array=1-8%2"
    assert as_line("output", "my runs/a.out") == '#SBATCH --output="my runs/a.out"'
    assert as_line("comment", 'a "b\\') == '#SBATCH --comment="a \\"b\\\\"'
    assert as_line("exclusive", None) == "#SBATCH --exclusive"


def test_an_array_numbers_shares() -> None:
    assert [num_tasks(options) for options in ({}, {"array": "1-8"}, {"array": "1-12%3"})] == [1, 8, 12]


@pytest.mark.parametrize("array", ["0-7", "8", "1,3", "2-8", "1-8:2", "1-0", None])
def test_an_array_with_a_gap_is_refused(array: str | None) -> None:
    with pytest.raises(ConfigError, match="does not number the shares"):
        num_tasks({"array": array})


def test_ranks_are_those_of_each_node() -> None:
    assert ranks_per_node({}) is None
    assert ranks_per_node({"nodes": "1", "ntasks-per-node": "1"}) is None
    assert ranks_per_node({"nodes": "2"}) == 1
    assert ranks_per_node({"nodes": "2", "ntasks-per-node": "8"}) == 8
    assert ranks_per_node({"ntasks-per-node": "4"}) == 4


@pytest.mark.parametrize(
    "options", [{"ntasks": "4"}, {"ntasks-per-node": "0"}, {"ntasks-per-node": "all"}, {"ntasks-per-node": None}]
)
def test_ranks_without_a_place_are_refused(options: dict[str, str | None]) -> None:
    with pytest.raises(ConfigError, match="ntasks"):
        ranks_per_node(options)


def test_the_number_of_nodes_is_not_left_open() -> None:
    assert [num_nodes(options) for options in ({}, {"nodes": "16"})] == [1, 16]
    with pytest.raises(ConfigError, match="nodes=2-4 leaves the number of ranks open"):
        num_nodes({"nodes": "2-4"})
    with pytest.raises(ConfigError, match="nodes=2-4 leaves the number of ranks open"):
        ranks_per_node({"nodes": "2-4", "ntasks-per-node": "8"})

"""The ranks of one run as a grid: `data` rows, which share out the tokens of a batch, of `latents` ranks each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError
from saepipe.data.ranks.group import meet, process_group
from saepipe.data.ranks.launch import Ranks
from saepipe.train.config_sections import ParallelConfig
from saepipe.train.parallel.axis import Axis, answered

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Mesh:
    """This rank's place in the grid. Ranks with the same tokens are neighbours, since they exchange the most."""

    ranks: Ranks
    latents: Axis  # ranks that hold the other latents, for the same tokens
    tokens: Axis  # ranks that hold the other tokens of a batch, for the same latents
    everyone: Axis
    messages: Any  # gloo group of all ranks, for what is no tensor of a device
    timeout: float  # seconds

    @property
    def is_first(self) -> bool:
        """True in the rank that writes the run's folder."""
        return self.ranks.is_first

    def meet(self, done: str) -> None:
        """Waits for all ranks; raises MachineError, which names those that do not come in time."""
        meet(self.ranks, done, self.timeout, self.messages)

    def from_first(self, value: T) -> T:
        """Returns the first rank's value, which must be known to pickle; it is kept nowhere."""
        values = [value]
        with answered():
            dist.broadcast_object_list(values, src=0, group=self.messages)
        return values[0]

    def of_all(self, value: T) -> list[T]:
        """Returns every rank's value, in the order of ranks."""
        values: list[Any] = [None] * self.ranks.size
        with answered():
            dist.all_gather_object(values, value, group=self.messages)
        return values

    def any(self, value: int) -> int:
        """Returns the largest of the ranks' values."""
        largest = torch.tensor(value)
        with answered():
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.messages)
        return int(largest)


@contextmanager
def open_mesh(config: ParallelConfig, device: str) -> Iterator[Mesh | None]:
    """Joins the ranks of a command, for the work inside; None, and nothing is done, if the run is not split.

    On CUDA, where nothing of this has run yet, each rank takes the device of its number on its machine.

    Raises:
        ConfigError: if torchrun has not started as many ranks as the config needs.
        MachineError: if the others do not come in time.
    """
    if config.num_ranks == 1:
        yield None
        return
    check_ranks(config, ranks := Ranks.of_environment())
    on_gpu = pick_device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(ranks.local_rank)
    with process_group(ranks, "nccl" if on_gpu else "gloo", config.timeout):
        yield grid(ranks, config, on_gpu=on_gpu)


def check_ranks(config: ParallelConfig, ranks: Ranks) -> None:
    """Raises ConfigError if a run that is split over ranks would have another number of them."""
    if config.num_ranks not in (1, ranks.size):
        torchrun = f"torchrun --nproc-per-node {config.num_ranks} -m saepipe train ..."
        hint = f"{torchrun}, in a job --sbatch ntasks-per-node={config.num_ranks}, or another `parallel`"
        split = f"latents {config.latents} x data {config.data}"
        raise ConfigError(f"parallel: {split} needs {config.num_ranks} ranks, and there are {ranks.size}", hint=hint)


def planned_mesh(config: ParallelConfig) -> Mesh | None:
    """Returns the place of the rank with the largest part, for a plan: it has joined no group and exchanges nothing."""
    if config.num_ranks == 1:
        return None
    ranks = Ranks(config.num_ranks - 1, config.num_ranks, config.num_ranks - 1, config.num_ranks)
    latents, tokens = Axis(config.latents - 1, config.latents), Axis(config.data - 1, config.data)
    return Mesh(ranks, latents, tokens, Axis(ranks.rank, ranks.size), None, config.timeout)


def grid(ranks: Ranks, config: ParallelConfig, *, on_gpu: bool) -> Mesh:
    """Returns this rank's place in a grid of all ranks, which have joined a process group."""
    row, column = divmod(ranks.rank, config.latents)
    numbers = torch.arange(ranks.size).view(config.data, config.latents)
    wait = timedelta(seconds=config.timeout)
    rows = [dist.new_group(each, wait) for each in numbers.tolist()]  # every rank makes every group, in one order
    columns = [dist.new_group(each, wait) for each in numbers.T.tolist()]
    return Mesh(
        ranks,
        latents=Axis(column, config.latents, rows[row]),
        tokens=Axis(row, config.data, columns[column]),
        everyone=Axis(ranks.rank, ranks.size),
        messages=dist.new_group(timeout=wait, backend="gloo") if on_gpu else None,
        timeout=config.timeout,
    )

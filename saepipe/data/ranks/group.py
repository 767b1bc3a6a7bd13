"""The process group of a command's ranks: how they wait for each other, and who is named if one does not come."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from saepipe.data.errors import MachineError
from saepipe.data.ranks.launch import Ranks

SECONDS = 600.0
"""How long a rank waits for the others, unless its caller knows better."""

_OTHERS = "see what the other ranks say, and whether their machines reach each other"


@contextmanager
def process_group(ranks: Ranks, backend: str = "gloo", seconds: float = SECONDS) -> Iterator[None]:
    """Joins the ranks of a command for the work inside; a single rank joins nothing.

    Args:
        ranks: of this command.
        backend: of torch.distributed.
        seconds: how long any operation waits for the other ranks.

    Raises:
        MachineError: if the others do not come in time.
    """
    if ranks.size == 1:
        yield
        return
    wait = timedelta(seconds=seconds)
    try:
        dist.init_process_group(
            backend, store=open_store(ranks, wait), rank=ranks.rank, world_size=ranks.size, timeout=wait
        )
    except RuntimeError as error:  # DistError too
        message = f"rank {ranks.rank} of {ranks.size} did not reach the others: {_first_line(error)}"
        raise MachineError(message, hint=_OTHERS) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def meet(ranks: Ranks, what: str, seconds: float = SECONDS) -> None:
    """Waits until all ranks of a gloo group are here.

    Args:
        ranks: of this command.
        what: what each has done by then, for the error.
        seconds: how long to wait.

    Raises:
        MachineError: if some do not come in time; the first rank's error names them.
    """
    if ranks.size == 1:
        return
    try:
        dist.monitored_barrier(timeout=timedelta(seconds=seconds), wait_all_ranks=True)
    except RuntimeError as error:
        message = f"rank {ranks.rank} waited {seconds:g} s for all ranks to have {what}: {_first_line(error)}"
        raise MachineError(message, hint=_OTHERS) from error


def open_store(ranks: Ranks, wait: timedelta) -> Store:
    """Returns the store of torchrun's agent, with names of its own for each life of the group.

    Without them gloo finds the addresses of the life before there, and a restarted group does not come up (torch
    2.13.0: "Gloo connectFullMesh failed").
    """
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, ranks.size, is_master=not of_agent and ranks.is_first, timeout=wait)
    return PrefixStore(f"saepipe/{ranks.life}", store)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

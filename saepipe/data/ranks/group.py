"""The process group of a command's ranks: how they wait for each other, and who is named if one does not come."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from saepipe.data.errors import MachineError
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.leaving import has_agent, leaving_together
from saepipe.data.ranks.life_name import agree

SECONDS = 600.0
"""How long a rank waits for the others, unless its caller knows better."""

_GROUPS = [0]
"""Number of the group that this process joined last; its commands join one after the other, as the other ranks do."""

_AGREED: dict[Ranks, str] = {}
"""The name of this start, by the place of this process among the ranks."""

_OTHERS = "see what the other ranks say, and whether their machines reach each other"


class LostRankError(MachineError):
    """Another rank is late or has ended; it knows why."""


@contextmanager
def process_group(ranks: Ranks, backend: str = "gloo", seconds: float = SECONDS) -> Iterator[None]:
    """Joins the ranks of a command for the work inside, which leave together if they are stopped; one joins nothing.

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
    _GROUPS[0] += 1
    of_group = _of_group(open_store(ranks, wait))
    with _reaching_others(ranks):
        dist.init_process_group(backend, store=of_group, rank=ranks.rank, world_size=ranks.size, timeout=wait)
    with leaving_together(ranks, of_group):
        try:
            yield
        except LostRankError:
            raise
        except BaseException as error:
            with suppress(RuntimeError):  # the store may be gone
                of_group.set(f"failed/{ranks.rank}", _first_line(error))
            raise
        finally:
            dist.destroy_process_group()


def meet(ranks: Ranks, what: str, seconds: float = SECONDS, group: dist.ProcessGroup | None = None) -> None:
    """Waits until all ranks of a gloo group are here.

    Args:
        ranks: of this command.
        what: what each has done by then, for the error.
        seconds: how long to wait.
        group: of all ranks, by gloo; None: the one that `process_group` made.

    Raises:
        LostRankError: if some do not come in time, or one has failed; the first rank's error names them.
    """
    if ranks.size == 1:
        return
    began = time.monotonic()
    try:
        dist.monitored_barrier(group, timeout=timedelta(seconds=seconds), wait_all_ranks=True)
    except RuntimeError as error:
        raise_failure(ranks)
        waited = f"rank {ranks.rank} waited {time.monotonic() - began:.0f} s for all ranks to have {what}"
        message = f"{waited}: {_first_line(error)}"
        raise LostRankError(message, hint=_OTHERS) from error


def not_waiting(ranks: Ranks, seconds: float = 2.0) -> list[int]:
    """Returns the ranks that do not wait, asked by one that has waited for an exchange until its time was up.

    Those that waited with it say so in the store. The others are late, or have ended; without the store none is named.

    Args:
        ranks: of this command.
        seconds: how long to listen to the others, whose time is up at about this time too.
    """
    try:
        store = open_store(ranks, timedelta(seconds=seconds), serves=False)
        with _reaching_others(ranks):
            store.set(f"waits/{ranks.rank}", "")
            time.sleep(seconds)
            return [rank for rank in range(ranks.size) if not store.check([f"waits/{rank}"])]
    except MachineError:  # the store has ended with the first rank, or with the machine that served it
        return []


def raise_failure(ranks: Ranks) -> None:
    """Raises LostRankError with the reason of a rank that has left this group with an error, if one has and says so."""
    try:
        reason = _failure(ranks)
    except MachineError:  # the store has ended with the first rank, or with the machine that served it
        return
    if reason:
        raise LostRankError(f"rank {ranks.rank} ends, since {reason}", hint="see what that rank says")


def _failure(ranks: Ranks) -> str | None:
    store = _of_group(open_store(ranks, timedelta(seconds=2), serves=False))
    with _reaching_others(ranks):
        failed = next((rank for rank in range(ranks.size) if store.check([f"failed/{rank}"])), None)
        return None if failed is None else f"rank {failed} has failed: {store.get(f'failed/{failed}').decode()}"


def open_store(ranks: Ranks, wait: timedelta, *, serves: bool = True) -> Store:
    """Returns the store of torchrun's agent, with names of its own for each start of the ranks.

    Where the agent has none, that of the first rank, which `serves` it. The first call waits for all ranks.

    Without such names, and those of each group, gloo finds the addresses of an earlier group there, and a later one
    does not come up (torch 2.13.0: "Gloo connectFullMesh failed").

    Raises:
        MachineError: if the store or the other ranks cannot be reached in time.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_master = serves and not has_agent() and ranks.is_first
    with _reaching_others(ranks):
        store = TCPStore(address, port, ranks.size, is_master=is_master, timeout=wait)
        if ranks not in _AGREED:
            _AGREED[ranks] = agree(PrefixStore("saepipe", store), ranks, wait)
    return PrefixStore(f"saepipe/{_AGREED[ranks]}", store)


def _of_group(store: Store) -> Store:
    return PrefixStore(f"group/{_GROUPS[0]}", store)


@contextmanager
def _reaching_others(ranks: Ranks) -> Iterator[None]:
    """Turns errors of torch.distributed into a MachineError."""
    try:
        yield
    except RuntimeError as error:  # DistError too
        message = f"rank {ranks.rank} of {ranks.size} did not reach the others: {_first_line(error)}"
        raise MachineError(message, hint=_OTHERS) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)

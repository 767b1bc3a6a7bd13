"""Ways to run a trace: operation by operation, as a CUDA graph, or compiled (`inductor.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from saepipe.data.errors import MachineError, is_out_of_memory
from saepipe.train.captured.inductor import inductor
from saepipe.train.config import Compile
from saepipe.train.step.state import Recipe

Replay = Callable[[], None]
Runner = Callable[[GraphModule, Sequence[Tensor]], Replay]
"""Given a trace and the tensors on which it runs from now on, which keep their memory, returns a function that runs it.
"""

WARM_UP_STEPS = 3
"""Steps that a CUDA graph's operations are launched one by one, on its stream, before it is captured."""


def interpreted(graph: GraphModule, tensors: Sequence[Tensor]) -> Replay:
    """Launches the operations one by one: the definition, with the bits of a plain step."""

    def replay() -> None:
        with torch.no_grad():
            graph(*tensors)

    return replay


class CudaGraph:
    """Captures a trace as a CUDA graph and launches it as a whole, with one call for all kernels.

    torch asks for a warm-up on a side stream, as some libraries allocate at their first call. It is real steps here.

    Raises:
        MachineError: from the first step that is captured, if CUDA cannot capture it.
    """

    def __init__(self, graph: GraphModule, tensors: Sequence[Tensor]) -> None:
        self._run, self._stream = interpreted(graph, tensors), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._warm_ups = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._warm_ups < WARM_UP_STEPS:
            self._warm_ups += 1
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                self._run()
            current.wait_stream(self._stream)
            return
        if self._graph is None:
            self._graph = self._captured()
        self._graph.replay()

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        try:
            # The threads that load batches go on using CUDA meanwhile.
            with torch.cuda.graph(graph, _pool(), self._stream, capture_error_mode="thread_local"):
                self._run()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())[:200]
            raise MachineError(f"CUDA cannot capture a step: {reason}", hint="set `compile: never`") from error
        return graph


@cache
def _pool() -> Any:
    """Returns the memory of all graphs, which never run at once and leave nothing in it."""
    return torch.cuda.graph_pool_handle()


RUNNERS: dict[Compile, Runner] = {"cudagraphs": CudaGraph, "inductor": inductor}


def runner_of(recipe: Recipe) -> Runner | None:
    """Returns what runs the traces of a run's steps; None if all its steps are plain."""
    return RUNNERS.get(recipe.config.compile)

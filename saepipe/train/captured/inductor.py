"""A trace compiled by torch's inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from saepipe.data.errors import MachineError

CPU_OPTIONS: dict[str, Any] = {"max_fusion_size": 4}
"""With larger fusions of a step the C++ generator of torch 2.13 raises KeyError in `is_all_write_read_contiguous`."""


def inductor(graph: GraphModule, tensors: Sequence[Tensor], *, backend: str = "inductor") -> Callable[[], None]:
    """Fuses elementwise operations and reductions; differs from a plain step by rounding.

    Args:
        graph: trace.
        tensors: what it runs on.
        backend: torch's name of a compiler; `aot_eager` compiles nothing, and takes every step up to that.

    Raises:
        MachineError: from the first step, if the code cannot be compiled.
    """
    inputs = [tensor.detach() for tensor in tensors]
    # Inductor cannot take torch's fused Adam in, but fuses one that is written out.
    written_out = {torch.ops.aten._fused_adam_.tensor_lr: adam_written_out}
    graph = make_fx(graph, written_out, tracing_mode="fake")(*inputs)
    options = CPU_OPTIONS if backend == "inductor" and tensors[0].device.type == "cpu" else None
    compiled = torch.compile(graph, backend=backend, fullgraph=True, dynamic=False, options=options)

    def replay() -> None:
        try:
            with torch.no_grad():
                compiled(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            hint = "inductor needs a C++ compiler, and Triton on CUDA; or set `compile: never`"
            raise MachineError(f"torch.compile cannot compile a step: {reason}", hint=hint) from error

    return replay


def adam_written_out(
    params: Sequence[Tensor],
    gradients: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    max_exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    *,
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    grad_scale: Tensor | None = None,
    **unused: Any,
) -> None:
    """Makes the step of `torch._fused_adam_` without weight decay or amsgrad; `steps` count it already."""
    for param, gradient, mean, square, step in zip(params, gradients, exp_avgs, exp_avg_sqs, steps, strict=True):
        scaled = gradient if grad_scale is None else gradient / grad_scale
        mean.lerp_(scaled, 1 - beta1)
        square.mul_(beta2).addcmul_(scaled, scaled, value=1 - beta2)
        size = (square / (1 - beta2**step)).sqrt() + eps
        param.sub_(lr / (1 - beta1**step) * mean / size)

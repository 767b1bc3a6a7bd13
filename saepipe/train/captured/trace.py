"""The operations of a function of tensors, recorded without its Python, its autograd and its checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from saepipe.train.kernels import operators
from saepipe.train.kernels.constants import TRACED
from saepipe.train.kernels.pick import OPERATORS

T = TypeVar("T")

NEEDS_THE_HOST = {
    torch.Tag.data_dependent_output: "reads a value on the host",
    torch.Tag.nondeterministic_seeded: "draws random numbers",
}

_LIBRARY = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_adam_.tensor_lr", "Meta"):
    # Without shapes of its own for it, tracing would run it on zeros of every parameter's size.
    _LIBRARY.impl("_fused_adam_.tensor_lr", lambda *tensors, **settings: None, "Meta")  # type: ignore[no-untyped-call]


class NotCapturableError(Exception):
    """The message says which operation cannot run without the host."""


def trace(function: Callable[[T], None], tensors: T) -> GraphModule:
    """Records a function that changes some of its tensors in place; it is not run.

    Args:
        function: of nested dicts and tuples of tensors.
        tensors: what it is called with. Their shapes, dtypes and devices become part of the trace.

    Returns:
        A function of the same tensors, in the order of `tree_flatten`.

    Raises:
        NotCapturableError: if an operation needs the host, or a tensor that is not in `tensors`.
        Exception: what the function raises, for example because it asks for a value.
    """
    flat, structure = tree_flatten(tensors)

    def of_flat(*flat: Tensor) -> None:
        function(tree_unflatten(flat, structure))

    tokens = OPERATORS.set(operators), TRACED.set(True)
    try:
        # A backward pass in a thread of its own would not be recorded.
        with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
            graph = make_fx(of_flat, tracing_mode="fake")(*flat)
    finally:
        OPERATORS.reset(tokens[0])
        TRACED.reset(tokens[1])
    if problems := list(filter(None, (problem(node, flat[0].device) for node in graph.graph.nodes))):
        raise NotCapturableError("; ".join(dict.fromkeys(problems)))
    return graph


def problem(node: Node, device: torch.device) -> str | None:
    """Returns why an operation cannot be part of a captured step on `device`, or None."""
    if node.op == "get_attr":
        return f"{node.name} holds a constant tensor, which is copied from the host"
    tags: Any = getattr(node.target, "tags", ())
    if reasons := [reason for tag, reason in NEEDS_THE_HOST.items() if tag in tags]:
        return f"{node.name} {reasons[0]}"
    for tensor in (each for each in tree_leaves(node.meta.get("val")) if isinstance(each, Tensor)):
        if any(isinstance(size, torch.SymInt) for size in tensor.shape):
            return f"{node.name} has a shape that depends on values"
        if tensor.device.type != device.type:
            return f"{node.name} is on {tensor.device}"
    return None

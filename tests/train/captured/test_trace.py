"""What needs the host is refused, and what does not is recorded.

torch's `meta` device, which has shapes and no numbers, stands for CUDA: a tensor on the CPU or a copy from it shows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saepipe.train.captured.trace import trace

META = torch.device("meta")


ELSEWHERE = torch.ones(3)

OPERATIONS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a value": (lambda x: x.mul_(x.sum().item()), "reads a value on the host"),
    "a mask": (lambda x: x.add_(x[x > 0].sum()), "has a shape that depends on values"),
    "indices of entries": (lambda x: x.add_(x.nonzero().sum()), "has a shape that depends on values"),
    "random numbers": (lambda x: x.add_(torch.rand_like(x)), "draws random numbers"),
    "a constant": (lambda x: x.add_(torch.tensor([1.0, 2.0, 3.0])), "holds a constant tensor"),
    "a copy": (lambda x: x.cpu(), "is on cpu"),
    "a tensor of its own": (lambda x: x.add_(ELSEWHERE), "FakeTensor"),
    "a condition": (lambda x: x.add_(1) if x.sum() > 0 else x, "data-dependent"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_needs_the_host_is_refused(name: str) -> None:
    operation, reason = OPERATIONS[name]
    with pytest.raises(Exception, match=reason):
        trace(lambda tensors: operation(tensors[0]), (torch.ones(3, device="cpu" if name == "a constant" else META),))


def test_an_operation_without_the_host_is_recorded_and_not_run() -> None:
    x, index = torch.ones(3), torch.tensor([2, 0, 1])
    graph = trace(lambda tensors: tensors["x"].add_(tensors["x"][tensors["index"]]), {"x": x, "index": index})
    assert x.tolist() == [1, 1, 1]
    graph(x, index)
    assert x.tolist() == [2, 2, 2]

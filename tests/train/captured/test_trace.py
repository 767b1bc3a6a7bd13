"""No operation of a captured step needs the host.

The steps are traced on torch's `meta` device, which has shapes and no numbers. To torch and to saepipe it is no CPU, so
it stands for CUDA on a machine without: a tensor on the CPU, a copy from or to it, or a value that is read, shows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers.steps_to_capture import BATCH, CASES, D_IN, fresh, recipe_of, with_penalty
from saepipe.train.captured.captured_run import settled_step, step_tensors
from saepipe.train.captured.trace import trace

META = torch.device("meta")


@pytest.mark.parametrize("name", CASES)
def test_a_step_needs_nothing_from_the_host(name: str) -> None:
    """With dead latents and a search for pairs, so that the step has every operation that one can have."""
    recipe = recipe_of(CASES[name], META)
    state = fresh(recipe)
    tensors = step_tensors(recipe, state, torch.empty(BATCH, D_IN, dtype=torch.bfloat16, device=META))
    graph = trace(lambda tensors: settled_step(recipe, 0, tensors, any_dead=True, sparse=state.sparse), tensors)
    assert torch.ops.aten._fused_adam_.tensor_lr in {node.target for node in graph.graph.nodes}


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated", "matryoshka_batch_topk"])
def test_a_sparse_step_with_any_number_of_entries_is_refused(name: str) -> None:
    recipe = recipe_of({**CASES[name], "sparse_steps": "always"}, META)
    tensors = step_tensors(recipe, fresh(recipe), torch.empty(BATCH, D_IN, device=META))
    with pytest.raises(Exception, match="depends on values|data-dependent|nonzero|unbacked|Eq"):
        trace(lambda tensors: settled_step(recipe, 1, tensors, any_dead=False, sparse=True), tensors)


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


def test_the_kernels_are_recorded_as_operators() -> None:
    recipe = recipe_of({**with_penalty("auxk"), "sparse_steps": "always"}, META)
    tensors = step_tensors(recipe, fresh(recipe), torch.empty(BATCH, D_IN, device=META))
    graph = trace(lambda tensors: settled_step(recipe, 1, tensors, any_dead=True, sparse=True), tensors)
    targets = [str(node.target) for node in graph.graph.nodes if "saepipe" in str(node.target)]
    assert set(targets) == {"saepipe.decode.default", "saepipe.sampled.default", "saepipe.column_sums.default"}

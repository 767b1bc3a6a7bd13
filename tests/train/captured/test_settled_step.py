"""No operation of a captured step needs the host.

The steps are traced on torch's `meta` device, which has shapes and no numbers. To torch and to saepipe it is no CPU, so
it stands for CUDA on a machine without: a tensor on the CPU, a copy from or to it, or a value that is read, shows.
"""

from __future__ import annotations

import pytest
import torch

from helpers.steps_to_capture import BATCH, CASES, D_IN, fresh, recipe_of, with_penalty
from saepipe.train.captured.captured_run import step_tensors
from saepipe.train.captured.entry_room import count_first
from saepipe.train.captured.settled_step import keep, settled_step
from saepipe.train.captured.trace import trace

META = torch.device("meta")


@pytest.mark.parametrize("name", CASES)
def test_a_step_needs_nothing_from_the_host(name: str) -> None:
    """With dead latents and a search for pairs, so that the step has every operation that one can have."""
    recipe = recipe_of(CASES[name], META)
    state = fresh(recipe)
    tensors = step_tensors(recipe, state, torch.empty(BATCH, D_IN, dtype=torch.bfloat16, device=META))
    room = (512, 128) if state.sparse and tensors.counted else None
    graph = trace(
        lambda tensors: settled_step(recipe, 0, tensors, any_dead=True, sparse=state.sparse, room=room), tensors
    )
    assert torch.ops.aten._fused_adam_.tensor_lr in {node.target for node in graph.graph.nodes}


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_entries_are_counted_without_the_host(name: str) -> None:
    recipe = recipe_of({**CASES[name], "sparse_steps": "always"}, META)
    tensors = step_tensors(recipe, fresh(recipe), torch.empty(BATCH, D_IN, device=META))
    graph = trace(lambda tensors: count_first(recipe, tensors), tensors)
    assert len([node for node in graph.graph.nodes if node.target == torch.ops.aten.copy_.default]) == 2


@pytest.mark.parametrize("name", ["relu", "jumprelu", "gated"])
def test_a_sparse_step_with_any_number_of_entries_is_refused(name: str) -> None:
    recipe = recipe_of({**CASES[name], "sparse_steps": "always"}, META)
    tensors = step_tensors(recipe, fresh(recipe), torch.empty(BATCH, D_IN, device=META))
    with pytest.raises(Exception, match="depends on values|data-dependent|nonzero|unbacked|Eq"):
        trace(lambda tensors: settled_step(recipe, 1, tensors, any_dead=False, sparse=True), tensors)


def test_the_kernels_are_recorded_as_operators() -> None:
    recipe = recipe_of({**with_penalty("auxk"), "sparse_steps": "always"}, META)
    tensors = step_tensors(recipe, fresh(recipe), torch.empty(BATCH, D_IN, device=META))
    graph = trace(lambda tensors: settled_step(recipe, 1, tensors, any_dead=True, sparse=True), tensors)
    targets = [str(node.target) for node in graph.graph.nodes if "saepipe" in str(node.target)]
    assert set(targets) == {"saepipe.decode.default", "saepipe.sampled.default", "saepipe.column_sums.default"}


def test_states_that_change_places_keep_their_values() -> None:
    a, b = torch.tensor(1.0), torch.tensor(2.0)
    old = {"penalty": {"a": a, "b": b}}
    keep(old, {"penalty": {"a": b.detach(), "b": a.detach()}})
    assert (float(a), float(b)) == (2.0, 1.0)

"""Rows are selected on the device as numpy selects them on the host, without a result being read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saepipe.data.batches.staging_memory import to_bits
from saepipe.data.cache.layout import Layout
from saepipe.harvest.selection import FINITE, INDEX, NUM_KEPT, Activations, pack_heldout, pack_train

pytestmark = pytest.mark.quick

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
LIMITS = [{}, {HOOKS[1]: 5.5}, {HOOKS[0]: 5.5, HOOKS[1]: 6.0}, {HOOKS[0]: 0.0}]


def activations(device: str = "cpu") -> dict[str, Activations]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 9, 32, generator=generator).to(device)
    return {hook: Activations.of(part) for hook, part in zip(HOOKS, x, strict=True)}


@pytest.mark.parametrize("limits", LIMITS, ids=["no limit", "a limit", "two limits", "none is kept"])
def test_kept_rows_come_first_and_in_order(limits: dict[str, float]) -> None:
    parts = activations()
    ordinary = np.random.default_rng(0).random((4, 9)) < 0.7
    packed = pack_train(parts, torch.from_numpy(np.flatnonzero(ordinary)), limits)
    keep = ordinary.copy()
    for hook, limit in limits.items():
        keep &= np.linalg.norm(parts[hook].x.bfloat16().double().numpy(), axis=-1) <= limit
    num_kept = int(packed[NUM_KEPT])
    assert num_kept == keep.sum()
    assert len(packed[INDEX]) == ordinary.sum()
    np.testing.assert_array_equal(packed[INDEX][:num_kept], np.flatnonzero(keep))
    for hook, part in parts.items():
        stored = to_bits(packed[Layout.acts(hook)])[:num_kept]
        np.testing.assert_array_equal(stored, to_bits(part.x.bfloat16())[keep])
        np.testing.assert_array_equal(packed[Layout.norm(hook)][:num_kept], part.norms.numpy()[keep])


@pytest.mark.parametrize("place", [(0, 3, 8), (1, 0, 0)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e20])
def test_rows_that_are_not_finite_are_found_at_their_hook(place: tuple[int, int, int], value: float) -> None:
    x = torch.zeros(2, 4, 9, 32)
    x[(*place, 5)] = value
    parts = {hook: Activations.of(part) for hook, part in zip(HOOKS, x, strict=True)}
    for packed in (pack_train(parts, torch.tensor([1]), {}), pack_heldout(parts)):
        assert packed[FINITE].tolist() == [place[0] != 0, place[0] != 1]


@pytest.mark.parametrize("limits", LIMITS[:2], ids=["no limit", "a limit"])
def test_nothing_is_read_back(limits: dict[str, float]) -> None:
    """Tensors on `meta` have no values, so any operation that needs one, to choose a shape or a branch, fails."""
    parts = activations("meta")
    packed = pack_train(parts, torch.empty(7, dtype=torch.int64, device="meta"), limits)
    assert packed[Layout.acts(HOOKS[0])].shape == (7, 32)
    assert pack_heldout(parts)[Layout.acts(HOOKS[0], "heldout")].shape == (36, 32)

"""Selection of latents to clamp against sorting plain tuples."""

from __future__ import annotations

import pytest
import torch

from saepipe.evaluate.metrics.unlearning.latent_selection import select_latents

pytestmark = pytest.mark.quick

FORGET = torch.tensor([0.5, 0.0, 0.2, 0.9, 0.2, 0.1, 0.2], dtype=torch.float64)
RETAIN = torch.tensor([0.0, 0.0, 0.0, 0.3, 0.001, 0.0, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(("threshold", "expected"), [(0.001, [0, 2, 6, 5]), (0.01, [0, 2, 4, 6, 5]), (1, [3, 0, 2])])
def test_the_densest_below_the_threshold_are_selected_ties_by_index(threshold: float, expected: list[int]) -> None:
    selected = select_latents(FORGET, RETAIN, threshold, len(expected), "fixed")
    assert selected.tolist() == expected


def test_latents_never_active_on_the_forget_text_are_not_selected() -> None:
    assert select_latents(FORGET, RETAIN, 0.001, 20, "fixed").tolist() == [0, 2, 6, 5]
    assert len(select_latents(torch.zeros(7), RETAIN, 0.001, 20, "fixed")) == 0


def test_random_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    forget, retain = torch.rand(2, 300, generator=generator, dtype=torch.float64).mul(20).floor().div(20)
    allowed = [index for index in range(300) if forget[index] > 0 and retain[index] < 0.3]
    expected = sorted(allowed, key=lambda index: (-forget[index], index))[:40]
    assert select_latents(forget, retain, 0.3, 40, "fixed").tolist() == expected
    reference = select_latents(forget, retain, 0.3, 40, "reference")
    assert forget[reference].tolist() == forget[expected].tolist()


def test_only_mode_reference_rounds_to_six_decimals() -> None:
    forget = torch.tensor([4e-7, 0.1], dtype=torch.float64)
    retain = torch.tensor([0.0, 0.000998], dtype=torch.float64)
    assert select_latents(forget, retain, 0.001, 2, "fixed").tolist() == [1, 0]
    assert select_latents(forget, retain, 0.001, 2, "reference").tolist() == [1]
    nearly = torch.tensor([0.0, 0.0009999999], dtype=torch.float64)
    assert select_latents(forget, nearly, 0.001, 2, "fixed").tolist() == [1, 0]
    assert select_latents(forget, nearly, 0.001, 2, "reference").tolist() == []

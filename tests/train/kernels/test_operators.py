"""The operators that a trace records compute what the kernels do, and have the shapes that they claim."""

from __future__ import annotations

import pytest
import torch

from helpers.kernel_products import random_mask
from saepipe.train.kernels import cpu, operators
from saepipe.train.kernels.pattern import Pattern

pytestmark = pytest.mark.quick

ROWS, COLUMNS, N = 17, 11, 5


def arguments() -> dict[str, tuple[Pattern, *tuple[torch.Tensor, ...]]]:
    rng = torch.Generator().manual_seed(0)
    pattern = Pattern.of_mask(random_mask(ROWS, COLUMNS, 0.3))
    values, A, W = (torch.randn(*size, generator=rng) for size in ((pattern.num_entries,), (ROWS, N), (COLUMNS, N)))
    return {
        "decode": (pattern, values, W),
        "decode_t": (pattern, values, A),
        "sampled": (pattern, A, W),
        "column_sums": (pattern, values),
    }


@pytest.mark.parametrize("name", ["decode", "decode_t", "sampled", "column_sums"])
def test_an_operator_is_the_kernel(name: str) -> None:
    given = arguments()[name]
    assert torch.equal(getattr(operators, name)(*given), getattr(cpu, name)(*given))


@pytest.mark.parametrize("operator", [operators._decode, operators._sampled, operators._column_sums])
def test_shapes_are_as_claimed(operator: torch.library.CustomOpDef) -> None:
    pattern, values, W = arguments()["decode"]
    A = arguments()["sampled"][1]
    given = {"decode": (values, W), "sampled": (A, W), "column_sums": (values,)}[operator._opoverload._opname]
    torch.library.opcheck(operator, (*operators._parts(pattern), *given), test_utils=("test_schema", "test_faketensor"))

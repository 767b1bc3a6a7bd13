"""Every implementation of the kernels, against float64 products of whole matrices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.kernel_products import Case, kernels_on, random_mask
from saepipe.data.errors import MachineError
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import Kernels, kernels_for

pytestmark = pytest.mark.cuda

NAMES = ["reference", "cpu", "triton"]
# (num_rows, num_columns, n, density)
SHAPES = list(product([1, 3, 17, 33], [1, 7, 100, 257], [1, 5, 64, 130], [0.0, 0.01, 0.5, 1.0]))
# Fewer, since each row or column is a program that takes milliseconds if interpreted. The last has three blocks of n.
FEW = [(1, 1, 1, 1.0), (3, 7, 5, 0.0), (3, 7, 130, 0.5), (33, 7, 5, 1.0), (2, 3, 600, 0.5)]
TRITON_SHAPES = {torch.float32: [(17, 100, 64, 0.01), (1, 257, 1, 0.5), *FEW], torch.bfloat16: FEW}

OPERATIONS: dict[str, Callable[[Kernels, Case], Tensor]] = {
    "decode": lambda kernels, case: kernels.decode(case.pattern, case.values, case.W),
    "decode_t": lambda kernels, case: kernels.decode_t(case.pattern, case.values, case.A),
    "sampled": lambda kernels, case: kernels.sampled(case.pattern, case.A, case.W),
    "column_sums": lambda kernels, case: kernels.column_sums(case.pattern, case.values),
}


def definition(operation: str, values: Tensor, A: Tensor, W: Tensor, pattern: Pattern) -> Tensor:
    """Computes an operation with whole matrices, in their dtype."""
    dense = pattern.dense(values)
    if operation == "decode":
        return dense @ W
    if operation == "decode_t":
        return dense.T @ A
    return pattern.values_of(A @ W.T) if operation == "sampled" else dense.sum(0)


def check(name: str, operation: str, case: Case) -> None:
    """Asserts agreement within 1e-5 of the sum of the terms' magnitudes, to which rounding errors are relative."""
    kernels, device = kernels_on(name)
    actual = OPERATIONS[operation](kernels, case)
    arrays = [array.double() for array in (case.values, case.A, case.W)]
    expected = definition(operation, *arrays, case.pattern)
    sizes = definition(operation, *[array.abs() for array in arrays], case.pattern)
    assert actual.dtype == torch.float32
    assert actual.device.type == device
    assert actual.shape == expected.shape
    shapes = (case.pattern.num_rows, case.pattern.num_columns, actual.shape)
    assert ((actual - expected).abs() <= 1e-5 * sizes).all(), shapes


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_definition(name: str, dtype: torch.dtype, operation: str) -> None:
    for num_rows, num_columns, n, density in TRITON_SHAPES[dtype] if name == "triton" else SHAPES:
        check(name, operation, Case.of(random_mask(num_rows, num_columns, density), n, dtype, kernels_on(name)[1]))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_may_differ(name: str, operation: str) -> None:
    case = Case.of(random_mask(3, 7, 0.5), 5, device=kernels_on(name)[1])
    check(name, operation, replace(case, values=case.values.bfloat16()))
    check(name, operation, replace(case, A=case.A.bfloat16(), W=case.W.bfloat16()))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_arrays_may_be_views(name: str, operation: str) -> None:
    case = Case.of(random_mask(5, 7, 0.5), 6, device=kernels_on(name)[1])
    strided = case.values.repeat_interleave(2)[::2], case.A.T.contiguous().T, case.W.T.contiguous().T
    slices = case.values.repeat(2)[len(case.values) :], case.A.repeat(1, 2)[:, 6:], case.W.repeat(1, 2)[:, 6:]
    expanded = case.values[:1].expand(len(case.values)), case.A[:1, :1].expand(5, 6), case.W[:1, :1].expand(7, 6)
    for values, A, W in (strided, slices, expanded):
        check(name, operation, Case(case.pattern, values, A, W))


def uneven_case(device: str, *, by_column: bool = False) -> Case:
    """The second of four rows (columns) has 600 of 717 entries; chunks hold 256, and its first whole one is chunk 1."""
    mask = torch.zeros(4, 600, dtype=torch.bool)
    mask[0, :50] = mask[1] = mask[3, ::9] = True
    return Case.of(mask.T if by_column else mask, 5, device=device)


@pytest.mark.parametrize("operation", ["decode", "decode_t", "column_sums"])
@pytest.mark.parametrize("name", NAMES)
def test_one_row_or_column_may_hold_nearly_all_entries(name: str, operation: str) -> None:
    check(name, operation, uneven_case(kernels_on(name)[1], by_column=operation != "decode"))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", NAMES)
def test_padding_entries_change_no_bit(name: str, operation: str) -> None:
    """Of rows and columns with few entries; in longer ones the chunks are larger."""
    kernels, device = kernels_on(name)
    for shape, num_padding in (((5, 7, 0.5), 9), ((3, 4, 0.0), 12), ((2, 3, 1.0), 0)):
        case = Case.of(random_mask(*shape), 6, device=device)
        mask, zeros = case.pattern.dense(case.pattern.ones()).bool(), case.values.new_zeros(num_padding)
        pattern = Pattern.padded_to(case.pattern.num_entries + num_padding, mask)
        padded = replace(case, pattern=pattern, values=torch.cat([case.values, zeros]))
        expected = OPERATIONS[operation](kernels, case)
        assert torch.equal(OPERATIONS[operation](kernels, padded)[: len(expected)], expected)


@pytest.mark.parametrize("operation", ["decode", "decode_t", "column_sums"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_padding", [1, 300, 1500])
def test_padding_follows_a_long_row_or_column(name: str, operation: str, num_padding: int) -> None:
    """The last row (column) has nearly all entries, and its last chunk of them is not whole."""
    mask = torch.zeros(4, 600, dtype=torch.bool)
    mask[0, ::9] = mask[3] = True
    case = Case.of(mask if operation == "decode" else mask.T, 5, device=kernels_on(name)[1])
    dense, zeros = case.pattern.dense(case.pattern.ones()).bool(), case.values.new_zeros(num_padding)
    pattern = Pattern.padded_to(case.pattern.num_entries + num_padding, dense)
    check(name, operation, replace(case, pattern=pattern, values=torch.cat([case.values, zeros])))


def test_triton_sums_a_long_row_in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replacing the chunks' sums with NaN turns that row into NaN, and no other."""
    kernels, device = kernels_on("triton")
    case = uneven_case(device)
    spoil = lambda *arrays, **_: arrays[5].fill_(torch.nan)  # noqa: E731
    monkeypatch.setattr("saepipe.train.kernels.triton_kernels.sum_chunks", {(2, 1): spoil})
    spoiled = kernels.decode(case.pattern, case.values, case.W).isnan()
    assert spoiled.all(1).tolist() == spoiled.any(1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["cpu", "triton"])
def test_results_repeat_bit_by_bit(name: str, operation: str) -> None:
    kernels, device = kernels_on(name)
    for case in (Case.of(random_mask(9, 13, 0.5), 70, device=device), uneven_case(device, by_column=True)):
        if (name, operation) != ("triton", "decode") or case.pattern.num_rows < 600:  # else slow: one program per row
            assert torch.equal(OPERATIONS[operation](kernels, case), OPERATIONS[operation](kernels, case))


def test_triton_offsets_may_exceed_2_to_the_31() -> None:
    """W has more than 2^31 numbers; on a CPU only the two rows that are read occupy memory."""
    kernels, device = kernels_on("triton")
    num_columns, n = 2**23 + 2, 256
    W = torch.empty(num_columns, n, dtype=torch.bfloat16, device=device)
    W[0], W[-1] = 1.0, 3.0
    pattern = Pattern.of_indices(torch.tensor([[num_columns - 1, 0]], device=device), num_columns)
    x_hat = kernels.decode(pattern, torch.tensor([1.0, 2.0], device=device), W)
    products = kernels.sampled(pattern, torch.ones(1, n, device=device), W)
    assert x_hat.tolist() == [[7.0] * n]
    assert products.tolist() == [256.0, 768.0]


def test_triton_compiles_without_a_gpu(tmp_path: Path) -> None:
    """In a separate process, because Triton decides on import whether to interpret, and may do so in this one."""
    pytest.importorskip("triton", reason="Triton has wheels for Linux only")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    program = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 6  # 3 kernels, 2 dtypes
    for kernel, dtype, loads_of_16_bytes, local in lines:
        assert int(loads_of_16_bytes) > 0, (kernel, dtype)
        assert local == "0", f"{kernel} of {dtype} spills registers to local memory"


def test_each_device_gets_its_kernels() -> None:
    for name, device in [("cpu", "cpu"), ("reference", "mps"), ("triton", "cuda")]:
        assert kernels_for(torch.device(device), torch.float32) is kernels_on(name)[0]
        assert kernels_for(torch.device(device), torch.float64) is kernels_on("reference")[0]


def test_cuda_without_triton_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from saepipe.train import kernels

    for module in ("triton_ops", "triton_kernels"):
        monkeypatch.delitem(sys.modules, f"saepipe.train.kernels.{module}", raising=False)
        monkeypatch.delattr(kernels, module, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MachineError, match="Triton, which is not installed"):
        kernels_for(torch.device("cuda"), torch.float32)

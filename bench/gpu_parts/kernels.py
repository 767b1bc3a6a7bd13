"""Checks the sparse kernels of this device, and times them at real sizes if all are right.

Each product, and the reference's, is compared with the dense one in float64, at awkward sizes and at those of real
steps; then the gradients that autograd derives from them, and those of whole steps. The error is |result - true| over
|true|, in norms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from gpu_parts import step_gradients
from gpu_parts.errors import error
from gpu_parts.kernel_cases import Case, cases, real_cases
from gpu_parts.scale import Scale
from gpu_parts.session import Session
from gpu_parts.timing import median_seconds, release
from torch import Tensor

from saepipe.train.kernels import autograd, reference
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-5}
"""Limits for the products: inputs are exact, sums and results are float32."""

GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Limits for autograd's gradients: in bfloat16 a gradient is rounded between two products."""

OPERATIONS = ("decode", "decode_t", "sampled", "column_sums")


def measure(session: Session) -> dict[str, Any]:
    """Returns errors by case and dtype, `right`, and the milliseconds of each kernel if all are right."""
    scale = session.scale
    products, wrong = check_products(scale)
    steps, wrong_steps = check_steps(scale)
    wrong += wrong_steps
    for line in wrong:
        print(f"FAILED kernel: {line}", flush=True)
    module = kernels_for(scale.device, torch.float32).__name__
    figures = {"module": module, "right": not wrong, "wrong": wrong, "errors": products, "whole_steps": steps}
    if wrong:
        return figures | {"failed": f"{len(wrong)} kernels are wrong"}
    figures["bits_repeat"] = {case.name: bits_repeat(case) for case in real_cases(scale, torch.bfloat16)}
    return figures | {"ms": {case.name: times(case, scale) for case in real_cases(scale, torch.bfloat16)}}


def check_products(scale: Scale) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Returns errors by case, and the names of those that are too large."""
    errors: dict[str, dict[str, float]] = {}
    wrong: list[str] = []
    for dtype in TOLERANCE:
        for case in cases(scale, dtype):
            name = f"{case.name}, {str(dtype).removeprefix('torch.')}"
            errors[name], wrong_here = check(case, dtype)
            wrong += [f"{operation} at {name}" for operation in wrong_here]
        release()
    worst = {name: max(line[name] for line in errors.values()) for name in next(iter(errors.values()))}
    largest = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    print(f"  {len(errors)} cases, largest errors: {largest}", flush=True)
    return errors, wrong


def check_steps(scale: Scale) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Returns the errors of the gradients of whole steps, and the names of those that are too large."""
    errors = step_gradients.errors(scale)
    wrong = [
        f"gradient of {key} in a whole step at {case}"
        for case, line in errors.items()
        for key, value in line.items()
        if not value <= step_gradients.tolerance(case)
    ]
    largest = ", ".join(f"{case} {max(line.values()):.1e}" for case, line in errors.items())
    print(f"  whole steps, sparse against dense: {largest}", flush=True)
    return errors, wrong


def check(case: Case, dtype: torch.dtype) -> tuple[dict[str, float], list[str]]:
    """Returns the errors of operations, reference and gradients, and the names of those that are too large."""
    truth = true_products(case)
    kernels = kernels_for(case.A.device, torch.float32)
    products = {operation: error(run(kernels, operation, case), truth[operation]) for operation in OPERATIONS}
    definitions = {
        f"reference.{operation}": error(run(reference, operation, case), truth[operation]) for operation in OPERATIONS
    }
    gradients = gradient_errors(case)
    wrong = [name for name, value in (products | definitions).items() if not value <= TOLERANCE[dtype]]
    wrong += [name for name, value in gradients.items() if not value <= GRADIENT_TOLERANCE[dtype]]
    return products | definitions | gradients, wrong


def bits_repeat(case: Case) -> dict[str, bool]:
    """Returns whether a second call gives the same bits, which is not promised on a GPU."""
    kernels = kernels_for(case.A.device, torch.float32)
    return {
        operation: torch.equal(run(kernels, operation, case), run(kernels, operation, case)) for operation in OPERATIONS
    }


def run(kernels: Any, operation: str, case: Case) -> Tensor:
    arguments = {
        "decode": (case.values, case.W),
        "decode_t": (case.values, case.A),
        "sampled": (case.A, case.W),
        "column_sums": (case.values,),
    }
    return getattr(kernels, operation)(case.pattern, *arguments[operation])


def true_products(case: Case) -> dict[str, Tensor]:
    """Returns the dense products in float64."""
    dense, A, W = case.pattern.dense(case.values).double(), case.A.double(), case.W.double()
    return {
        "decode": dense @ W,
        "decode_t": dense.T @ A,
        "sampled": case.pattern.values_of(A @ W.T),
        "column_sums": dense.sum(0),
    }


def gradient_errors(case: Case) -> dict[str, float]:
    """Returns errors of `autograd.decode` and `autograd.encode_at` against autograd of the dense product in float64."""
    values, W = (part.detach().clone().requires_grad_() for part in (case.values, case.W.float()))
    exact_values, exact_W = (part.detach().double().requires_grad_() for part in (case.values, case.W))
    grads = torch.autograd.grad(autograd.decode(case.pattern, values, W), (values, W), case.A.float())
    true = torch.autograd.grad(case.pattern.dense(exact_values) @ exact_W, (exact_values, exact_W), case.A.double())
    W_enc = case.W.float().T.contiguous().requires_grad_()
    bias = torch.zeros(case.pattern.num_columns, device=W_enc.device, requires_grad=True)
    encoded = autograd.encode_at(case.pattern, case.values, case.A, W_enc, bias)
    grad_W_enc, grad_bias = torch.autograd.grad(encoded, (W_enc, bias), case.values.to(encoded.dtype))
    dense = case.pattern.dense(case.values).double()
    return {
        "gradient of values": error(grads[0], true[0]),
        "gradient of W_dec": error(grads[1], true[1]),
        "gradient of W_enc": error(grad_W_enc, case.A.double().T @ dense),
        "gradient of b_enc": error(grad_bias, dense.sum(0)),
    }


def times(case: Case, scale: Scale) -> dict[str, float]:
    """Returns milliseconds of each kernel, of the transposed index, and of the dense product that a kernel replaces."""
    kernels = kernels_for(scale.device, torch.float32)
    pattern = case.pattern
    dense = pattern.dense(case.values)

    def index() -> None:
        # A new pattern, because a pattern keeps its index.
        Pattern(pattern.num_columns, pattern.row_starts, pattern.columns, pattern.positions).by_column  # noqa: B018

    works: dict[str, Callable[[], object]] = {
        operation: lambda operation=operation: run(kernels, operation, case) for operation in OPERATIONS
    }
    works |= {"transposed index": index, "dense product": lambda: dense @ case.W}
    milliseconds = {
        name: 1e3 * median_seconds(work, scale.device, scale.rounds, scale.turn_seconds / 3)
        for name, work in works.items()
    }
    print(f"  {case.name}: " + ", ".join(f"{name} {value:.3f} ms" for name, value in milliseconds.items()), flush=True)
    return milliseconds

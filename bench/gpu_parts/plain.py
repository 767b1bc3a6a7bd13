"""The same SAEs in plain PyTorch: dense, compiled or not, with fused Adam.

Without unit rows, projection, clipping, dead counts and log sums, this is a lower bound, not another library's trainer.
Parameters are float32; matrix products and activations are bfloat16 on a GPU, as in ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from saepipe.train.sae.base import Params

Step = Callable[[], None]
Loss = Callable[[Params, Tensor, torch.dtype, int], Tensor]

L1 = 0.1
L0 = 0.01
BANDWIDTH = 0.05


def compiled_step(name: str, params: Params, inputs: Iterator[Tensor], dtype: torch.dtype, k: int, lr: float) -> Step:
    """Returns `eager_step` with its loss compiled."""
    # On a CPU, for which nothing is claimed, Inductor would need a C++ compiler.
    backend = "inductor" if params["W_enc"].is_cuda else "aot_eager"
    loss = torch.compile(LOSSES[name], backend=backend, fullgraph=True, dynamic=False)
    return _step(loss, params, inputs, dtype, k, lr)


def eager_step(name: str, params: Params, inputs: Iterator[Tensor], dtype: torch.dtype, k: int, lr: float) -> Step:
    """Returns a function that makes one optimisation step of a `relu`, `topk` or `jumprelu` SAE, starting at `params`.

    `inputs` yields x (batch, d_in) float32, scaled, on the parameters' device.
    """
    return _step(LOSSES[name], params, inputs, dtype, k, lr)


def _step(loss: Loss, params: Params, inputs: Iterator[Tensor], dtype: torch.dtype, k: int, lr: float) -> Step:
    leaves = {key: value.detach().clone().requires_grad_() for key, value in params.items()}
    adam = torch.optim.Adam(leaves.values(), lr=lr, fused=True)

    def step() -> None:
        loss(leaves, next(inputs), dtype, k).backward()
        adam.step()
        adam.zero_grad(set_to_none=True)

    return step


def relu_loss(params: Params, x: Tensor, dtype: torch.dtype, k: int) -> Tensor:
    acts = _pre_acts(params, x, dtype).relu()
    return _error(params, x, acts, dtype) + L1 * acts.float().sum() / len(x)


def topk_loss(params: Params, x: Tensor, dtype: torch.dtype, k: int) -> Tensor:
    pre_acts = _pre_acts(params, x, dtype)
    values, indices = pre_acts.topk(k, dim=-1, sorted=False)
    acts = torch.zeros_like(pre_acts).scatter(-1, indices, values.relu())
    return _error(params, x, acts, dtype)


def jumprelu_loss(params: Params, x: Tensor, dtype: torch.dtype, k: int) -> Tensor:
    """Lets thresholds learn through a rectangle kernel in place of the jump's slope (Rajamanoharan et al. 2024)."""
    pre_acts = _pre_acts(params, x, dtype)
    gate = JumpGate.apply(pre_acts, params["threshold"].to(dtype))
    return _error(params, x, pre_acts * gate, dtype) + L0 * gate.float().sum() / len(x)


LOSSES = {"relu": relu_loss, "topk": topk_loss, "jumprelu": jumprelu_loss}


class JumpGate(torch.autograd.Function):
    """H(pre_acts - threshold), with the rectangle kernel's slope for the threshold and no gradient for the pre-acts."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, pre_acts: Tensor, threshold: Tensor) -> Tensor:
        ctx.save_for_backward(pre_acts, threshold)
        return (pre_acts > threshold).to(pre_acts.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[None, Tensor]:
        pre_acts, threshold = ctx.saved_tensors
        near = (pre_acts - threshold).abs() < BANDWIDTH / 2
        return None, -(gradient * near).sum(0, dtype=torch.float32).to(threshold.dtype) / BANDWIDTH


def _pre_acts(params: Params, x: Tensor, dtype: torch.dtype) -> Tensor:
    return (x - params["b_dec"]).to(dtype) @ params["W_enc"].to(dtype) + params["b_enc"].to(dtype)


def _error(params: Params, x: Tensor, acts: Tensor, dtype: torch.dtype) -> Tensor:
    x_hat = (acts @ params["W_dec"].to(dtype)).float() + params["b_dec"]
    return (x - x_hat).square().sum() / len(x)

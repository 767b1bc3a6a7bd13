#!/usr/bin/env bash
# torch 2.13.0 on a CPU: Adam(fused=True) takes the gradient's numbers in memory order, not by index.
#
# Guess: an optimiser that accepts p.grad of p's shape updates each element by its own gradient, whatever the strides,
# as Adam does without `fused`; or it refuses.
# Seen: with p transposed in memory (strides (1, 3)) and a contiguous p.grad (strides (4, 1)), the fused step moves
# elements by the gradients of others, without an error or a warning. A gradient with p's strides gives the right step,
# but the step allocates as much memory as p has.
# Who meets it: an SAE whose W_enc starts as W_dec.T has such a parameter. backward() gives its gradient the parameter's
# strides; torch.autograd.grad, or a gradient that is computed by hand and assigned, may not have them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from pathlib import Path

print("torch", torch.__version__)


def step(fused: bool, aligned: bool) -> torch.Tensor:
    p = torch.nn.Parameter(torch.arange(12.0).view(4, 3).T)
    gradient = torch.linspace(-1, 1, 12).view(3, 4)
    p.grad = torch.empty_like(p).copy_(gradient) if aligned else gradient
    assert torch.equal(p.grad, gradient)
    optimizer = torch.optim.Adam([p], lr=0.1, betas=(0.0, 0.0), eps=0.0, fused=fused, foreach=False)
    optimizer.step()
    return p.detach()


expected = torch.arange(12.0).view(4, 3).T - 0.1 * torch.linspace(-1, 1, 12).view(3, 4).sign()
for fused in (False, True):
    for aligned in (True, False):
        right = torch.allclose(step(fused, aligned), expected)
        strides = "the parameter's strides" if aligned else "other strides"
        print(f"fused={fused}, gradient with {strides}: {'right' if right else 'WRONG, and no error'}")
        assert right == (not fused or aligned), "the behaviour has changed"


def growth(transposed: bool) -> float:
    """Peak of resident memory during a fused step, above that before it, in units of the parameter."""
    def made() -> torch.Tensor:
        return torch.zeros(4096, 8192).T if transposed else torch.zeros(4096, 8192)

    p = torch.nn.Parameter(made())
    p.grad = torch.empty_like(p).zero_()
    optimizer = torch.optim.Adam([p], fused=True)
    optimizer.step()  # makes the moments
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    optimizer.step()
    return (resident("VmHWM") - before) * 1024 / (4 * p.numel())


def resident(field: str) -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line)


for transposed, copies in ((False, 0), (True, 1)):
    seen = growth(transposed)
    print(f"{'transposed' if transposed else 'contiguous'} parameter: a fused step allocates {seen:.2f} of its size")
    assert abs(seen - copies) < 0.2, "the behaviour has changed"
PYTHON

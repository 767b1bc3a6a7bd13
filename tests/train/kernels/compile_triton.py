"""Compiles the Triton kernels for a GPU, without needing one.

Prints one line per kernel: name, dtype of the dense arrays, number of 16-byte loads, uses of local memory.
"""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saepipe.train.kernels import triton_kernels, triton_ops

KERNELS = [triton_kernels.sum_chunks, triton_kernels.sum_rows, triton_kernels.sample]
N = 2304
HOPPER = GPUTarget("cuda", 90, 32)


def compiled(kernel: triton.JITFunction, dtype: str) -> str:
    """Returns the assembly (PTX) for arrays aligned to 16 bytes, as torch allocates them."""
    launch = triton_ops._launch(N)
    block = {name: launch.pop(name) for name in ("BLOCK_E", "BLOCK_N")}
    pointers = dict.fromkeys(("starts", "rows", "columns"), "*i32")
    pointers |= dict.fromkeys(("values", "dense", "A", "W"), f"*{dtype}") | {"sums": "*fp32", "out": "*fp32"}
    types = {name: "constexpr" if name in block else pointers.get(name, "i32") for name in kernel.arg_names}
    aligned = [name for name in types if name in pointers or name in ("n", "chunk")]
    index = {name: (kernel.arg_names.index(name),) for name in types}
    source = ASTSource(
        fn=kernel,
        signature=types,
        constexprs={index[name]: size for name, size in block.items()},
        attrs={index[name]: [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=HOPPER, options=launch).asm["ptx"]


for dtype in ("fp32", "bf16"):
    for kernel in KERNELS:
        ptx = compiled(kernel, dtype)
        print(kernel.__name__, dtype, ptx.count("ld.global.v4.b32"), ptx.count("ld.local") + ptx.count("st.local"))

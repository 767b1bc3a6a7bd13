#!/usr/bin/env bash
# bitsandbytes 0.50.2: with its usual threshold, a row of an 8-bit product depends on the other rows.
#
# Guess: LLM.int8 multiplies each row (token) by itself: it is rounded by its own largest entry, and the columns of its
# large entries are multiplied in 16 bits. So a token's output does not depend on which other tokens are in the batch.
# Seen: a column is taken out of the rounding for all rows if any row of the whole batch has an entry above the threshold
# (6) there. So one token changes the outputs of all others: of earlier tokens of its sequence, which a causal model must
# not do, and of other sequences. With llm_int8_threshold=0 no column is taken out, and rows are independent.
# Who meets it: everyone who caches activations, or compares outputs, of models loaded with load_in_8bit: they depend on
# the batch size, on the order of the data and on later tokens (in SmolLM2-135M by 5 % of an activation's norm).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy bitsandbytes==0.50.2
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import bitsandbytes
import torch
from bitsandbytes.nn import Int8Params, Linear8bitLt

print("bitsandbytes", bitsandbytes.__version__, "torch", torch.__version__)
torch.manual_seed(0)
weights, x = torch.nn.Linear(64, 64).weight.detach(), torch.randn(3, 64).half()
other = x.clone()
other[2, ::2] = 40  # of another row


def change_of_the_first_row(threshold: float) -> float:
    layer = Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=threshold)
    layer.weight = Int8Params(weights.clone(), requires_grad=False, has_fp16_weights=False).to("cpu")
    layer.eval()  # in training mode a CPU rounds no inputs
    with torch.no_grad():
        before, after = layer(x)[0].float(), layer(other)[0].float()
    return float((after - before).norm() / before.norm())


changes = {threshold: change_of_the_first_row(threshold) for threshold in (6.0, 0.0)}
for threshold, change in changes.items():
    print(f"threshold {threshold}: outliers in the third row change the output of the first by {change:.2%}")
assert changes[6.0] > 1e-3, "the behaviour has changed"
assert changes[0.0] == 0, "the behaviour has changed"
PYTHON

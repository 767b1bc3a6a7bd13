#!/usr/bin/env bash
# Triton 3.6.0 with TRITON_INTERPRET=1: a loop whose bounds were loaded fails from NumPy 2.4 on; Triton 3.7.1 runs it.
#
# Guess: Triton names no NumPy that it needs, so its interpreter runs with any recent one.
# Seen: `for k in range(begin, end)` with loaded begin and end raises InterpreterError, "only 0-dimensional arrays can be
# converted to Python scalars": NumPy 2.4 ended the conversion of arrays of one element, of which the interpreter's
# scalars are made. Kernels without such loops run, so a suite fails in part. NumPy 2.3 runs them all.
# Who meets it: images with torch 2.11 bring Triton 3.6 and may bring NumPy 2.5; kernels over ragged rows (sparse SAE
# activations, packed sequences) loop between two loaded numbers, and are tested interpreted where there is no GPU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip --quiet --disable-pip-version-check"
$pip install torch==2.13.0
cat > "$folder/ragged.py" <<'PYTHON'
import numpy, torch, triton
import triton.language as tl


@triton.jit
def sums_of_rows(x, starts, out):
    row = tl.program_id(0)
    begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    total = 0.0
    for k in range(begin, end):
        total += tl.load(x + k)
    tl.store(out + row, total)


out = torch.empty(2)
try:
    sums_of_rows[(2,)](torch.arange(8.0), torch.tensor([0, 3, 8], dtype=torch.int32), out)
    seen = "right" if out.tolist() == [3.0, 25.0] else "wrong"
except Exception as error:
    assert "only 0-dimensional arrays can be converted" in str(error), error
    seen = "raises"
print(f"triton {triton.__version__}, numpy {numpy.__version__}: {seen}")
PYTHON
for versions in "3.6.0 2.3.5 right" "3.6.0 2.4.6 raises" "3.7.1 2.4.6 right"; do
  read -r triton numpy expected <<<"$versions"
  $pip install "triton==$triton" "numpy==$numpy"
  seen=$(TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/ragged.py")
  echo "$seen"
  [[ $seen == *": $expected" ]] || { echo "the behaviour has changed: expected $expected"; exit 1; }
done

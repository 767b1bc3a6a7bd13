#!/usr/bin/env bash
# torch 2.13.0: after a restart, the ranks of one job have different TORCHELASTIC_RESTART_COUNT.
#
# Guess: the variable names the life of the job, so every rank has the same one, and may use it in the name of a file,
# a store's key or a rendezvous of its own.
# Seen: with two agents (torchrun --nnodes 2) of which one's worker fails once, all workers are started again. The
# failed one's agent counts: its worker has 1. The other agent takes the restart for a change of members, does not
# count it, and its worker has 0 in both lives. The ranks of the second life agree on nothing that is named by it.
# Who meets it: whoever builds a process group of their own on the agent's store, and needs fresh names after a restart,
# since gloo finds the addresses of the earlier life under the old ones. saepipe's ranks agree on a name at each start
# (saepipe/data/ranks/life_name.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
here=$(cd "$(dirname "$0")/.." && pwd)
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check -c "$here/constraints.txt" torch==2.13.0 numpy
cat > "$folder/worker.py" <<'PYTHON'
import os
import sys
import time
from pathlib import Path

folder, agent = Path(sys.argv[1]), sys.argv[2]
first = not (folder / "failed").exists()
with (folder / f"seen-{agent}").open("a") as seen:
    seen.write(f"{os.environ['TORCHELASTIC_RESTART_COUNT']}\n")
if first:
    if agent == "1":
        time.sleep(3)  # until the other has started
        (folder / "failed").touch()
        sys.exit(1)
    time.sleep(60)  # ended by its agent, when the job starts again
PYTHON
port=$("$folder/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
for agent in 0 1; do
    "$folder/venv/bin/torchrun" --nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d \
        --rdzv-endpoint "127.0.0.1:$port" "$folder/worker.py" "$folder" "$agent" > "$folder/agent-$agent.log" 2>&1 &
done
wait
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import torch

folder = Path(sys.argv[1])
well, failed = ((folder / f"seen-{agent}").read_text().split() for agent in (0, 1))
print(f"torch {torch.__version__}: restart counts of the failed worker {failed}, of the other {well}")
assert failed == ["0", "1"], failed
assert well == ["0", "0"], well
PYTHON

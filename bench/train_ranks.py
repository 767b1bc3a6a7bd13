"""Eight variants trained by 1, 2 and 4 ranks have the weights of one process, each pool is decoded once on a machine,
and two ranks of one thread take at most 1.05x the time of one process with two (the aim).

    python bench/train_ranks.py [--tokens 200000] [--steps 400] [--rounds 3] [--d-sae 1024]

Runs `torchrun -m saepipe train` on gloo's machine of one node. Weights are compared with those of a process with one
thread, since the number of threads decides the order of sums. The time is that of the steps, from the first log line
of any run to the last, taken from the runs' logs; the contenders take turns. Exit code 1 if weights differ. Writes
results/train_ranks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from record import write_result

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
AIM = 1.05
ENVIRONMENT = {**os.environ, "SAEPIPE_COMMIT": "bench", "PYTHONPATH": str(Path(__file__).parents[1])}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
CONTENDERS = {"1 process, 2 threads": (0, 2), "1 rank": (1, 1), "2 ranks": (2, 1), "4 ranks": (4, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--d-sae", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harvested(folder, options.tokens)
        (folder / "train.yaml").write_text(yaml.safe_dump(study(folder, options)))
        seconds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for number in range(options.rounds):
            for contender, (ranks, threads) in CONTENDERS.items():
                seconds[contender].append(trained(folder, f"{contender}-{number}", ranks, threads))
        trained(folder, "alone", 0, 1)
        alone = weights(folder / "alone")
        different = {
            name: sum(alone[run] != found for run, found in weights(folder / f"{name}-0").items())
            for name in ("1 rank", "2 ranks", "4 ranks")
        }
    medians = {contender: round(statistics.median(times), 2) for contender, times in seconds.items()}
    ratio = round(medians["2 ranks"] / medians["1 process, 2 threads"], 3)
    figures: dict[str, Any] = {**vars(options), "seconds": medians, "ratio": ratio, "aim": AIM}
    figures |= {"runs with other weights": different, "runs": len(alone)}
    print(json.dumps(figures, indent=2))
    write_result("train_ranks", CLAIM, figures)
    sys.exit(any(different.values()))


def harvested(folder: Path, tokens: int) -> None:
    settings = [
        f"num_tokens={tokens}",
        "heldout_tokens=2000",
        "chunk_rows=2048",
        "shard_rows=16384",
        "model.device=cpu",
    ]
    overrides = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "saepipe", "harvest", *overrides, "--out", str(folder / "cache")]
    subprocess.run(command, check=True, env=ENVIRONMENT, capture_output=True)


def study(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    relu = {"name": "relu", "d_sae": options.d_sae}
    penalties = {"l1": [], "tanh": [{"name": "tanh", "weight": 0.1}], "ortsae": [{"name": "ortsae", "weight": 0.1}]}
    variants = [
        {"name": name, "sae": relu, "penalties": [{"name": "l1", "weight": 1.0}, *added]}
        for name, added in penalties.items()
    ]
    common = {"steps": options.steps, "batch_size": 1024, "device": "cpu", "seeds": [0, 1], "checkpoint_every": 10**6}
    topk = {"name": "topk", "d_sae": options.d_sae, "k": 16}
    return {"cache": str(folder / "cache"), "sae": topk, **common, "variants": [{"name": "topk"}, *variants]}


def trained(folder: Path, name: str, ranks: int, threads: int) -> float:
    """Trains all variants; returns the seconds from start to end, without those of the start of Python."""
    launcher = [*TORCHRUN, f"--nproc-per-node={ranks}"] if ranks else [sys.executable]
    arguments = ["-m", "saepipe", "train", "--config", str(folder / "train.yaml"), "--out", str(folder / name)]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([*launcher, *arguments], check=True, env=environment, capture_output=True)
    began = min(
        json.loads(path.read_text().splitlines()[0])["time"] for path in folder.glob(f"{name}/*/*/log/train.jsonl")
    )
    return max(path.stat().st_mtime for path in folder.glob(f"{name}/*/*/COMMITTED")) - began


def weights(runs: Path) -> dict[str, bytes]:
    paths = sorted(runs.glob("*/*/sae/sae_weights.safetensors"))
    return {str(path.relative_to(runs)): path.read_bytes() for path in paths}


if __name__ == "__main__":
    main()

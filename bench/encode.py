"""Encoding and decoding held-out rows as `evaluate` does, beside an earlier build: in turns, separate processes.

    python bench/encode.py --before CHECKOUT [--rows 100000] [--rounds 3] [--saes relu jumprelu topk]

Each row of x (d_in 512) is a sum of 32 of 16,384 random directions and noise, stored as bfloat16 like a cache's. The
SAE has those directions, and a bias, a threshold or k for about 64 active latents per token. `reconstruct` is what the
core metric calls for each batch: x_hat, L0, L1 and the counts of active tokens. The module's forward, decode(encode),
is called for one batch in five.
Batches have 4,096 rows, and only these calls are timed. Writes results/encode.json, and fails if L0 or FVU of the
two builds differ by more than 1e-6 of their size: a screened product rounds otherwise than a whole one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from record import commit_of, write_result
from torch import Tensor

from saepipe.evaluate.sae.reconstruction import reconstruct
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.jumprelu import JumpReLU
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.topk import TopK

CLAIM = "Encoding and decoding held-out rows takes half of an earlier build's time, for the same L0 and FVU"
AIM = 2.0
D_IN, D_SAE, L0, BATCH = 512, 16_384, 64, 4096
SAES: dict[str, Architecture] = {
    "relu": ReLU(d_sae=D_SAE),
    "jumprelu": JumpReLU(d_sae=D_SAE),
    "topk": TopK(d_sae=D_SAE, k=L0),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CALLS = ("reconstruct", "forward")
FORWARD_EVERY = 5  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--saes", nargs="+", choices=SAES, default=list(SAES))
    parser.add_argument("--one", choices=SAES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(timed(args.one, args.rows)))
        return
    if args.before is None:
        parser.error("--before is needed")
    turns = list(take_turns(args.saes, args.rows, args.rounds, args.before))
    figures = {name: compared([turn for turn in turns if turn["sae"] == name]) for name in args.saes}
    shape = {"d_in": D_IN, "d_sae": D_SAE, "batch": BATCH, "threads": torch.get_num_threads()}
    settings = {**shape, "rows": args.rows, "rounds": args.rounds, "before": commit_of(args.before)}
    write_result("encode", CLAIM, {"aim": AIM, "figures": figures, "settings": settings, "turns": turns})
    for name, figure in figures.items():
        for call in CALLS:
            ratio = figure["times the earlier speed"][call]
            print(f"{name:10} {call:12} {ratio['wall']:.2f}x wall, {ratio['cpu']:.2f}x CPU, aim {AIM}x")
        print(f"{name:10} L0 and FVU, now and before: {figure['l0']} {figure['fvu']}")
    apart = [abs(now - before) / before for figure in figures.values() for now, before in (figure["l0"], figure["fvu"])]
    if max(apart) > 1e-6:
        sys.exit(f"L0 or FVU differ by {max(apart):.1g} of their size")


def take_turns(saes: list[str], rows: int, rounds: int, before: Path) -> Iterator[dict[str, Any]]:
    """Yields the times of both builds; every other round runs in the opposite order."""
    builds = [("now", {}), ("before", {"PYTHONPATH": str(before.resolve())})]
    for number in range(rounds):
        for name in saes:
            for build, settings in builds if number % 2 == 0 else reversed(builds):
                command = [sys.executable, __file__, "--one", name, "--rows", str(rows)]
                run = subprocess.run(
                    command, env={**os.environ, **settings}, capture_output=True, text=True, check=True
                )
                turn = {"round": number, "sae": name, "build": build, **json.loads(run.stdout)}
                print(number, name, build, turn["seconds"], flush=True)
                yield turn


def compared(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the ratios of median seconds, before to now, and L0 and FVU of both builds, now first."""
    now, before = ([turn for turn in turns if turn["build"] == build] for build in ("now", "before"))

    def seconds(of: list[dict[str, Any]], call: str, clock: str) -> float:
        return statistics.median(turn["seconds"][call][clock] for turn in of)

    ratios = {
        call: {clock: seconds(before, call, clock) / seconds(now, call, clock) for clock in CLOCKS} for call in CALLS
    }
    same = {figure: (now[0][figure], before[0][figure]) for figure in ("l0", "fvu")}
    return {"times the earlier speed": ratios, **same}


@torch.no_grad()
def timed(name: str, num_rows: int) -> dict[str, Any]:
    """Returns the seconds of each call over all rows, L0 and FVU, for the build that is imported."""
    directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(0)))
    sae = make_sae(name, directions, rows_of(0, directions))
    seconds = {call: dict.fromkeys(CLOCKS, 0.0) for call in CALLS}
    error, variation, l0 = 0.0, 0.0, 0
    for number, first in enumerate(range(0, num_rows, BATCH)):
        x = rows_of(number, directions)[: num_rows - first]
        contexts = torch.arange(len(x)) // 128
        start = {clock: read() for clock, read in CLOCKS.items()}
        result = reconstruct(sae, x, contexts, int(contexts[-1]) + 1)
        for clock, read in CLOCKS.items():
            seconds["reconstruct"][clock] += read() - start[clock]
        if number % FORWARD_EVERY == 0:
            start = {clock: read() for clock, read in CLOCKS.items()}
            x_hat = sae(x)
            for clock, read in CLOCKS.items():
                seconds["forward"][clock] += read() - start[clock]
            torch.testing.assert_close(x_hat, result.x_hat, rtol=1e-4, atol=1e-4)
        error += float((x - result.x_hat).double().square().sum())
        variation += float((x - x.mean(0)).double().square().sum())
        l0 += int(result.l0.long().sum())
    return {"seconds": seconds, "l0": l0 / num_rows, "fvu": error / variation}


def make_sae(name: str, directions: Tensor, x: Tensor) -> SAE:
    """Returns an SAE with these directions (d_sae, d_in) that has about `L0` active latents per token of x."""
    settings = SAES[name]
    share = (x @ directions.T).flatten()[::64].sort(descending=True).values
    level = share[L0 * len(share) // D_SAE]
    params = settings.init(D_IN, 1.0, torch.Generator().manual_seed(0)) | {"W_enc": directions.T, "W_dec": directions}
    if name == "relu":
        params["b_enc"] = torch.full((D_SAE,), -float(level))
    if name == "jumprelu":
        params["threshold"] = torch.full((D_SAE,), float(level))
    return SAE(settings, params, {})


def rows_of(number: int, directions: Tensor) -> Tensor:
    """Returns a batch of rows (BATCH, d_in)."""
    rng = torch.Generator().manual_seed(number)
    chosen = torch.randint(D_SAE, (BATCH, 32), generator=rng)
    size = 1 + torch.rand(BATCH, 32, 1, generator=rng)
    noise = 0.05 * torch.randn(BATCH, D_IN, generator=rng)
    return ((directions[chosen] * size).sum(1) + noise).bfloat16().float()


if __name__ == "__main__":
    main()

"""The cost of evaluation: 1, 4 and 16 runs per call, each on cold artifacts, then as many other runs on warm ones.

    python bench/evaluate.py [--runs 1 4 16] [--rounds 3] [--steps 300] [--contexts N] [--metrics NAME...]
    python bench/evaluate.py --before CHECKOUT [--rounds 3]

The runs are 32 short ones of one config on a cache of the toy, which differ in the seed: the first half is for cold
calls, the second for warm ones. Each call is a separate process, timed from opening the first run folder to writing the
last result; this includes loading the model, but not imports. With t(n) the median over rounds, the marginal cost of an
SAE is the slope between the two largest n, and the set-up is the rest of t(n) at the smaller of the two. Passes of the
model are counted in sequences. Writes results/evaluate.json, and fails if the number of full or lower-layer passes
depends on the number of runs, or if a warm call makes lower-layer passes.

With --before, an earlier build in a checkout takes turns with this one: warm calls of the larger number of runs, with
feature stores, each build on artifacts of its own. Writes results/evaluate_before.json, with the figures that differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from record import commit_of, write_result

from saepipe.data.toy import CONFIGS
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.run import evaluate
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

CLAIM = "Model work is shared: full and lower-layer passes are the same for 1 and for 16 runs, and are made once"
CLAIM_BEFORE = "Evaluating runs with kept work of the model takes at most 0.6 of an earlier build's time"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--d-sae", type=int, default=512)
    parser.add_argument("--contexts", type=int, help="held-out contexts for core and geometry (default: all)")
    parser.add_argument("--metrics", nargs="+", help="metrics to run (default: those of the config)")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--call", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.call:
        print(json.dumps(timed_call(**args.call)))
        return
    metrics, sizes = metrics_of(args.metrics, args.contexts), sorted(set(args.runs))
    if args.before:
        with tempfile.TemporaryDirectory() as folder:
            runs = make_runs(Path(folder), sizes[-1] + 1, args.steps, args.d_sae)
            compare_builds(Path(folder), runs, args.before, args.rounds, metrics)
        return
    if len(sizes) < 2:
        parser.error("--runs needs at least two different numbers, for a slope")
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder), 2 * sizes[-1], args.steps, args.d_sae)
        calls = list(all_calls(Path(folder), runs, sizes, args.rounds, metrics))
    settings = {"steps": args.steps, "d_sae": args.d_sae, "rounds": args.rounds, "threads": torch.get_num_threads()}
    figures = {"settings": settings | {"metrics": metrics}, **summary(calls, sizes), "calls": calls}
    write_result("evaluate", CLAIM, figures)
    print_tables(figures)
    if not figures["as claimed"]:
        sys.exit(f"not as claimed: {figures['passes']}")


def make_runs(folder: Path, num_runs: int, steps: int, d_sae: int) -> list[Path]:
    cache = harvest(HarvestConfig.load(CONFIGS / "harvest.yaml"), folder / "cache")
    settings = {
        "cache": str(cache.path),
        "sae": {"name": "relu", "d_sae": d_sae},
        "penalties": [{"name": "l1", "weight": 2.0}],
        "steps": steps,
        "batch_size": 1024,
        "optimizer": {"lr": 1e-3},
        "seeds": list(range(num_runs)),
    }
    return train(TrainConfig.parse(settings), folder / "runs")


def metrics_of(names: Sequence[str] | None, contexts: int | None) -> list[dict[str, Any]]:
    """Returns the settings of each metric."""
    chosen = {"metrics": [{"name": name} for name in names]} if names else {}
    fewer = {"num_contexts": contexts} if contexts else {}
    metrics = [metric.to_dict() for metric in EvaluateConfig.parse(chosen).metrics]
    return [metric | fewer if "num_contexts" in metric else metric for metric in metrics]


def all_calls(
    folder: Path, runs: Sequence[Path], sizes: Sequence[int], rounds: int, metrics: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yields, per round and number of runs, a cold call, then one of as many other runs with the stored artifacts."""
    half = len(runs) // 2
    for number in range(rounds):
        for num_runs in sizes if number % 2 == 0 else reversed(sizes):
            work = folder / f"{number}-{num_runs}"
            config = {"metrics": metrics, "artifacts": str(work / "artifacts")}
            for kind, evaluated in (("cold", runs[:num_runs]), ("warm", runs[half : half + num_runs])):
                call = {"runs": list(map(str, evaluated)), "config": config, "out": str(work / kind)}
                cost = call_in_a_process(call)
                print(number, kind, num_runs, f"{cost['seconds']['all']['wall']:.1f} s", cost["passes"], flush=True)
                yield {"round": number, "artifacts": kind, "runs": num_runs, **cost}


def compare_builds(
    folder: Path, runs: Sequence[Path], before: Path, rounds: int, metrics: list[dict[str, Any]]
) -> None:
    """Times warm calls of all runs but the last, which makes the artifacts; every other round in the opposite order."""
    builds: dict[str, Mapping[str, str]] = {"now": {}, "before": {"PYTHONPATH": str(before.resolve())}}
    commit_before = commit_of(before)  # before anything is timed: Python says nothing of a path that is not there
    calls: dict[str, list[dict[str, Any]]] = {build: [] for build in builds}
    for number in range(-1, rounds):  # round -1 is cold, and not counted
        for build in builds if number % 2 == 0 else reversed(builds):
            out, evaluated = folder / f"{build}-{number}", runs[-1:] if number < 0 else runs[:-1]
            config = {"metrics": metrics, "artifacts": str(folder / f"artifacts-{build}")}
            call = {"runs": list(map(str, evaluated)), "config": config, "out": str(out)}
            cost = call_in_a_process(call, builds[build])
            print(number, build, cost["seconds"], flush=True)
            if number >= 0:
                calls[build].append(cost["seconds"])
    shares = {
        clock: {
            metric: _median(calls["now"], metric, clock) / _median(calls["before"], metric, clock)
            for metric in calls["now"][0]
        }
        for clock in CLOCKS
    }
    apart = differences(folder / "now-0", folder / "before-0")
    settings = {
        "runs": len(runs) - 1,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "before": commit_before,
    }
    figures = {"aim": 0.6, "share of the earlier time": shares, "figures apart": apart, "settings": settings}
    write_result("evaluate_before", CLAIM_BEFORE, {**figures, "calls": calls})
    print(json.dumps(shares, indent=1), f"{len(apart)} figures differ", json.dumps(apart, indent=1), sep="\n")


def _median(calls: Sequence[Mapping[str, Any]], metric: str, clock: str) -> float:
    return statistics.median(call[metric][clock] for call in calls)


def differences(now: Path, before: Path) -> dict[str, list[float]]:
    """Returns the figures of both builds that differ by more than 1e-6 of their size, by file, category and key.

    Figures that only one build has are left out.
    """
    apart = {}
    for path in sorted(now.glob("*/*.json")):
        one, other = (json.loads((root / path.relative_to(now)).read_text()) for root in (now, before))
        for category, group in one["eval_result_metrics"].items():
            figures = other["eval_result_metrics"].get(category, {})
            for key in group.keys() & figures.keys():
                value, earlier = group[key], figures[key]
                if value != earlier and not math.isclose(value, earlier, rel_tol=1e-6, abs_tol=1e-9):
                    apart[f"{path.relative_to(now)} {category} {key}"] = [value, earlier]
    return apart


def call_in_a_process(call: Mapping[str, Any], settings: Mapping[str, str] = {}) -> dict[str, Any]:
    command = [sys.executable, __file__, "--call", json.dumps(call)]
    process = subprocess.run(command, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True, check=True)
    cost: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return cost


def timed_call(runs: list[str], config: dict[str, Any], out: str) -> dict[str, Any]:
    """Returns the seconds of each metric and of the whole call, and the passes of the model."""
    parsed, passes = EvaluateConfig.parse(config), Passes()
    seconds: dict[str, dict[str, float]] = {}
    for metric in parsed.metrics:
        record_time(type(metric), seconds)
    start = now()
    evaluate([Path(run) for run in runs], parsed, out=Path(out), passes=passes)
    return {"seconds": seconds | {"all": since(start)}, "passes": asdict(passes)}


def record_time(metric: type[Metric], seconds: dict[str, dict[str, float]]) -> None:
    """Makes the metric record in `seconds` how long it measures."""
    measure = metric.measure

    def timed_measure(self: Metric, *arguments: Any) -> Any:
        start = now()
        measurements = measure(self, *arguments)
        seconds[self.name] = since(start)
        return measurements

    metric.measure = timed_measure  # type: ignore[assignment, method-assign]


def now() -> dict[str, float]:
    return {name: clock() for name, clock in CLOCKS.items()}


def since(start: Mapping[str, float]) -> dict[str, float]:
    return {name: clock() - start[name] for name, clock in CLOCKS.items()}


def summary(calls: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    few, many = sizes[-2:]
    costs: dict[str, Any] = {}
    for metric in calls[0]["seconds"]:
        for kind in ("cold", "warm"):
            for clock in CLOCKS:
                t = {n: median(calls, kind, n, metric, clock) for n in sizes}
                marginal = (t[many] - t[few]) / (many - few)
                line = {"set-up": t[few] - few * marginal, "an SAE": marginal, **{f"t({n})": t[n] for n in sizes}}
                costs.setdefault(metric, {}).setdefault(kind, {})[clock] = line
    passes = {
        kind: {str(n): next(c["passes"] for c in calls if (c["artifacts"], c["runs"]) == (kind, n)) for n in sizes}
        for kind in ("cold", "warm")
    }
    shared = all(len({(p["full"], p["lower"]) for p in by_size.values()}) == 1 for by_size in passes.values())
    made_once = all(counts["lower"] == 0 for counts in passes["warm"].values())
    return {"as claimed": shared and made_once, "seconds": costs, "passes": passes}


def median(calls: Sequence[Mapping[str, Any]], kind: str, num_runs: int, metric: str, clock: str) -> float:
    matches = [call for call in calls if (call["artifacts"], call["runs"]) == (kind, num_runs)]
    return statistics.median(call["seconds"][metric][clock] for call in matches)


def print_tables(figures: Mapping[str, Any]) -> None:
    print(f"\n{'seconds':16} {'':5} {'set-up':>8} {'per SAE':>8}   (wall; CPU in brackets)")
    for metric, by_kind in figures["seconds"].items():
        for kind, by_clock in by_kind.items():
            wall, cpu = by_clock["wall"], by_clock["cpu"]
            print(
                f"{metric:16} {kind:5} {wall['set-up']:8.2f} {wall['an SAE']:8.3f}   "
                f"({cpu['set-up']:.2f}, {cpu['an SAE']:.3f})"
            )
    for kind, by_size in figures["passes"].items():
        for num_runs, passes in by_size.items():
            print(f"{kind} call of {num_runs:>2} runs, sequences through the model: {passes}")


if __name__ == "__main__":
    main()

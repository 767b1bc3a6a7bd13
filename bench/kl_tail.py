"""A KL tail at the end of training lowers what an SAE costs the language model, in CE and in KL.

    python bench/kl_tail.py [--seeds 5] [--folder DIR]
    python bench/kl_tail.py --real CACHE [--seeds 3] [--folder DIR]

The embedded toy and its cache as `saepipe demo` harvests it; 1,000 steps of 512 tokens at `blocks.1.hook_resid_post`,
d_sae 512: a TopK of 10 with auxk, and a ReLU with L1 that is steered to an L0 of 10. Each is trained without a tail,
and with tails of several shares and weights; all else, seeds and batches included, is the same, so differences are
paired by seed. Figures are those of `core` on held-out text. Writes results/kl_tail.json.

With --real it reads a cache of SmolLM2-135M that has `blocks.14.hook_resid_post`, trains a TopK of 32 for 300 steps of
1,024 tokens, d_sae 2048, and writes results/kl_tail_real.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import write_result

import saepipe as sp
from saepipe.data.toy import CONFIGS
from saepipe.evaluate.stats.paired_seeds import mean, paired
from saepipe.harvest.config import HarvestConfig

CLAIM = __doc__.split("\n\n")[0]
TAILS: dict[str, Any] = {
    "none": 0,
    "share 0.1": 0.1,
    "share 0.1, weight 0.1": {"share": 0.1, "weight": 0.1},
    "share 0.3, weight 0.1": {"share": 0.3, "weight": 0.1},
}
FIGURES = {"delta_ce": "delta_ce", "kl": "kl_div_with_sae", "fvu": "fvu", "l0": "l0"}


@dataclass(frozen=True)
class Study:
    """What is trained with every tail."""

    saes: dict[str, dict[str, Any]]
    """keys of the train config, by name"""
    common: dict[str, Any]
    """keys of the train config that are the same for all"""
    tails: tuple[str, ...]
    num_contexts: int | None
    """held-out contexts to evaluate on; None: all"""


TOY = Study(
    saes={
        "topk": {"sae": {"name": "topk", "d_sae": 512, "k": 10}, "penalties": [{"name": "auxk"}]},
        "relu": {
            "sae": {"name": "relu", "d_sae": 512},
            "penalties": [{"name": "l0_target", "l0": 10, "penalty": {"name": "l1", "weight": 1.0}}],
        },
    },
    common={"hook": "blocks.1.hook_resid_post", "steps": 1000, "batch_size": 512, "log_every": 50},
    tails=tuple(TAILS),
    num_contexts=None,
)
REAL = Study(
    saes={"topk": {"sae": {"name": "topk", "d_sae": 2048, "k": 32}, "penalties": [{"name": "auxk"}]}},
    common={"hook": "blocks.14.hook_resid_post", "steps": 300, "batch_size": 1024, "log_every": 10},
    tails=tuple(TAILS)[:3],
    num_contexts=64,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--real", type=Path, metavar="CACHE", help="cache of SmolLM2-135M, in place of the toy's")
    parser.add_argument("--folder", type=Path, help="keeps cache and runs here, and goes on with what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    name, study = ("kl_tail_real", REAL) if args.real else ("kl_tail", TOY)
    with ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(TemporaryDirectory()))
        if not args.real:
            sp.harvest(HarvestConfig.load(CONFIGS / "harvest.yaml"), folder / "cache")
        cache = args.real or folder / "cache"
        figures = {sae: measure(study, sae, cache, folder / sae, args.seeds) for sae in study.saes}
    settings = {"seeds": args.seeds, **asdict(study), "tails": {tail: TAILS[tail] for tail in study.tails}}
    print(f"written to {write_result(name, CLAIM, {'settings': settings, 'figures': figures})}")


def measure(study: Study, sae: str, cache: Path, out: Path, num_seeds: int) -> dict[str, Any]:
    """Trains and evaluates one SAE with every tail; returns means, and paired differences from the one without."""
    raw = {"cache": str(cache), **study.common, **study.saes[sae], "optimizer": {"lr": 1e-3}, "device": "cpu"}
    variants = [{"name": tail, "kl_tail": TAILS[tail]} for tail in study.tails]
    runs = sp.train({**raw, "variants": variants, "seeds": list(range(num_seeds))}, out)
    metrics = [{"name": "core", "num_contexts": study.num_contexts}]
    sp.evaluate(runs, {"metrics": metrics, "features": None, "device": "cpu"})
    seeds = {tail: runs[at * num_seeds : (at + 1) * num_seeds] for at, tail in enumerate(study.tails)}
    return {tail: compared(sae, tail, own, seeds["none"]) for tail, own in seeds.items()}


def compared(name: str, tail: str, runs: Sequence[Path], plain: Sequence[Path]) -> dict[str, Any]:
    """Returns each figure's mean over seeds, and its difference from the runs without a tail, with 95 % intervals."""
    ours, theirs = ({key: [core(run)[key] for run in each] for key in FIGURES} for each in (runs, plain))
    differences = {key: asdict(paired(ours[key], theirs[key]).mean) for key in FIGURES} if tail != "none" else {}
    gap = mean([1 - own / base for own, base in zip(ours["delta_ce"], theirs["delta_ce"], strict=True)])
    means = {key: asdict(mean(ours[key])) for key in FIGURES}
    print(f"{name:6}{tail:24}" + "".join(f"{key} {means[key]['value']:.4f}   " for key in FIGURES), flush=True)
    return {
        "mean": means,
        "difference": differences,
        "share of the CE gap closed": asdict(gap),
        "gradient over the reconstruction's": pull(runs) if tail != "none" else None,
        "seeds": ours,
    }


def pull(runs: Sequence[Path]) -> float:
    """Returns the median, over the log lines in the tails, of KL's gradient norm over the reconstruction's."""
    lines = [json.loads(line)["terms"] for run in runs for line in (run / "metrics.jsonl").read_text().splitlines()]
    tails = [terms for terms in lines if terms["kl_tail"]["gradient_norm"]]
    return median(terms["kl_tail"]["gradient_norm"] / terms["reconstruction"]["gradient_norm"] for terms in tails)


def core(run: Path) -> dict[str, Any]:
    """Returns the figures of a run's evaluation, each a number."""
    cells = sp.open_run(run).metrics["core"]
    return {figure: cells[key].value for figure, key in FIGURES.items()}


if __name__ == "__main__":
    main()

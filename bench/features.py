"""One pass over the cache gathers the feature stores of all runs of a hook, at a small multiple of the encoding time.

    python bench/features.py [--tokens 300k] [--quick]

TopK runs of one step (k 32) on the toy's activations, one alone and four together. CPU-seconds of gathering the stores
and of only encoding the same rows, in one process, in turns; bytes per store. Writes results/features.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import write_result

import saepipe as sp
from saepipe.data.terminal.progress import Silent
from saepipe.data.toy import CONFIGS
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import chunks
from saepipe.evaluate.features.gather_stores import build_stores
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.config import HarvestConfig
from saepipe.train.rundir.finished_run import Run

CLAIM = __doc__.split("\n\n")[0]
WIDTHS, NUM_TOGETHER = (512, 4096), 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="300k")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    tokens, widths = ("20k", WIDTHS[:1]) if args.quick else (args.tokens, WIDTHS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        harvest = HarvestConfig.load(CONFIGS / "harvest.yaml", [f"num_tokens={tokens}"])
        cache = sp.harvest(harvest, folder / "cache")
        by_width = [measure(cache, folder / str(d_sae), d_sae) for d_sae in widths]
        num_tokens = cache.num_tokens
    for figures in by_width:
        print(figures)
    if not args.quick:
        write_result("features", CLAIM, {"threads": torch.get_num_threads(), "tokens": num_tokens, "widths": by_width})


def measure(cache: sp.Cache, folder: Path, d_sae: int) -> dict[str, Any]:
    config = {
        "cache": str(cache.path),
        "sae": {"name": "topk", "d_sae": d_sae, "k": 32},
        "steps": 1,
        "batch_size": 256,
        "seeds": list(range(NUM_TOGETHER)),
    }
    runs = [sp.open_run(run) for run in sp.train(config, folder)]
    testbed = Testbeds(EvaluateConfig(), Passes()).at(cache, runs[0].hook)
    alone, encoding = seconds_of_stores(runs[:1], testbed, folder / "alone"), seconds_of_encoding(runs[0], testbed)
    together = seconds_of_stores(runs, testbed, folder / "together")
    store = sum(path.stat().st_size for path in (folder / "alone" / "0").iterdir() if path.is_file())
    return {
        "d_in": cache.d_in,
        "d_sae": d_sae,
        "cpu_s": {"encoding alone": encoding, "one store": alone, f"{NUM_TOGETHER} stores together": together},
        "tokens_a_cpu_second_and_run": round(cache.num_tokens * NUM_TOGETHER / together),
        "bytes_a_store": store,
    }


def seconds_of_stores(runs: Sequence[Run], testbed: Testbed, folder: Path) -> float:
    jobs = [StoreJob(run, testbed, Features(), folder / str(index), folder) for index, run in enumerate(runs)]
    began = time.process_time()
    build_stores(jobs, Silent())
    return round(time.process_time() - began, 2)


def seconds_of_encoding(run: Run, testbed: Testbed) -> float:
    subject = Subject.load(run, testbed.device)
    began = time.process_time()
    for chunk in chunks(testbed.cache, testbed.hook, Features()):
        subject.encode(chunk.x)
    return round(time.process_time() - began, 2)


if __name__ == "__main__":
    main()

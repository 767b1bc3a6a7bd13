"""The ten runs of the field's reference experiment, from a resident cache, with the function behind `saepipe train`.

`configs/study-baseline.yaml` unchanged (10M tokens, d_in 2304, d_sae 2304, batch 2048, 4,882 steps), at five weights of
L1, each with and without the orthogonality of the most similar pairs. The time runs from the first step to the last
run's folder: it includes log lines, checkpoints, health rules and sealing, but not decoding the cache. The cache holds
random rows; if it has fewer than 10M, it is read several times (`passes` in the result).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from gpu_parts import material
from gpu_parts.loader import memory_of
from gpu_parts.session import Session
from gpu_parts.timing import Stopwatch

from saepipe.data.errors import HealthError
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

STUDY = Path(__file__).parents[2] / "configs" / "study-baseline.yaml"
WEIGHTS = (0.01, 0.02, 0.04, 0.08, 0.16)
PAIRS = {"name": "topk_orthogonality", "weight": 0.1}


def measure(session: Session) -> dict[str, Any]:
    """Returns the seconds of all ten runs, and those of the whole call and of decoding."""
    scale = session.scale
    began = time.perf_counter()
    cache = material.write_cache(session.folder / "reference-cache", scale, scale.reference_rows)
    written = time.perf_counter() - began
    print(f"  wrote a cache of {cache.num_tokens:,} rows in {written:.0f} s", flush=True)
    config = TrainConfig.parse(study(session, cache.path))
    if scale.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(scale.device)
    watch, began = Stopwatch(), time.perf_counter()
    try:
        train(config, session.folder / "runs", progress=watch)
    except HealthError as error:  # expected of random rows; only the time matters, and the error is recorded
        watch.say(str(error))
    whole = time.perf_counter() - began
    training = sum(seconds for name, seconds in watch.seconds.items() if name.startswith("train "))
    tokens = scale.reference_steps * scale.reference_batch
    figures = {
        "seconds": training,
        "seconds_of_the_whole_call": whole,
        "seconds_of_decoding": sum(seconds for name, seconds in watch.seconds.items() if name.startswith("decode ")),
        "tokens_s_all_runs": 2 * len(WEIGHTS) * tokens / training,
        "runs": 2 * len(WEIGHTS),
        "steps": scale.reference_steps,
        "passes": tokens / cache.num_tokens,
        "said": [line.replace(f"{session.folder}/", "") for line in watch.said],
    }
    if scale.device.type == "cuda":
        figures["peak_gib"] = torch.cuda.max_memory_allocated(scale.device) / 2**30
    print(
        f"  {figures['runs']} runs of {figures['steps']:,} steps in {training:.1f} s ({whole:.1f} s in all)", flush=True
    )
    return figures


def study(session: Session, cache: Path) -> dict[str, Any]:
    """Returns the study's config with this cache, resident in the device's memory, and ten variants."""
    scale = session.scale
    raw = yaml.safe_load(STUDY.read_text())
    raw |= {"cache": str(cache), "hook": scale.hook, "device": str(scale.device), "resident": memory_of(scale.device)}
    raw |= {"sae": {"name": "relu", "d_sae": scale.reference_d_sae}, "batch_size": scale.reference_batch}
    raw |= {"tokens": scale.reference_steps * scale.reference_batch}
    raw["sparse_steps"] = "auto" if session.kernels_right else "never"
    raw["variants"] = [
        {"name": f"l1-{weight:g}{'-pairs' if pairs else ''}", "penalties": [{"name": "l1", "weight": weight}, *pairs]}
        for pairs in ((), (PAIRS,))
        for weight in WEIGHTS
    ]
    return raw

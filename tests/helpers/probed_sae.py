"""Sparse probing of a small SAE of the toy model, with an injected fault."""

from __future__ import annotations

import json
import random
from pathlib import Path

from saepipe.data import toy
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.folders.health import Finding
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.run import evaluate
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

HOOK = "blocks.1.hook_resid_post"


def probed(folder: Path, *, l1: float = 0.5, shuffled: bool = False) -> list[str]:
    """Returns the findings about an SAE trained with an L1 weight, on labels that may belong to other texts."""
    settings = {"num_tokens": 4000, "heldout_tokens": 640, "heldout_share": 0.2, "shard_rows": 1024, "chunk_rows": 256}
    settings |= {"model": {"dtype": "float32", "device": "cpu"}, "hooks": HOOK, "pool_shards": 1, "batch_size": 8}
    cache = harvest(HarvestConfig.parse(settings), folder / "cache").path
    sae = {"sae": {"name": "relu", "d_sae": 64}, "penalties": [{"name": "l1", "weight": l1}], "batch_size": 256}
    sae |= {"cache": str(cache), "hook": HOOK, "device": "cpu", "steps": 60, "optimizer": {"lr": 3e-3}}
    (run,) = train(TrainConfig.parse(sae), folder / "runs")
    data = {"name": "gender", "source": str(_genders(folder / "genders.jsonl", shuffled)), "label": "gender"}
    metric = {"name": "sparse_probing", "datasets": [data], "train_size": 200, "test_size": 100, "context_size": 48}
    (result,) = evaluate([run], EvaluateConfig.parse({"metrics": [metric], "features": None, "device": "cpu"}))
    return [str(Finding(**finding)) for finding in json.loads(result.read_text())["saepipe"]["findings"]]


def _genders(path: Path, shuffled: bool) -> Path:
    """Writes held-out biographies, each with its gender or, if `shuffled`, with that of another."""
    documents = [d for d in toy.documents(7, 4000, ["biography"]) if heldout_score(d.text) < toy.HELDOUT_SHARE]
    genders = [document.labels["gender"] for document in documents]
    if shuffled:
        random.Random(0).shuffle(genders)
    rows = [{"text": document.text, "gender": gender} for document, gender in zip(documents, genders, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path

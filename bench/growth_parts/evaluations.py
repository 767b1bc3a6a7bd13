"""Work of evaluation: core by width and by runs, comparisons of made-up results, absorption by letters."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

import saepipe as sp
from helpers.made_results import write_core, write_run
from saepipe.data.toy import documents
from saepipe.data.toy.words import WORDS
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.report.run import report

Act = Callable[[], object]

HOOK = "blocks.1.hook_resid_post"
TOY = {"model": {"model": "toy", "dtype": "float32", "device": "cpu"}, "hooks": [HOOK], "heldout_tokens": 4000}


def trained(folder: Path, d_sae: int, num_seeds: int, num_tokens: int = 20_000) -> list[Path]:
    cache = sp.harvest({**TOY, "num_tokens": num_tokens}, folder / "cache")
    sae = {"name": "topk", "d_sae": d_sae, "k": 16}
    config = {"cache": str(cache.path), "sae": sae, "steps": 1, "batch_size": 256, "seeds": list(range(num_seeds))}
    return sp.train({**config, "device": "cpu", "health": {"least_move": 0}}, folder / "runs")


def one_run(folder: Path, d_sae: int) -> None:
    _warmed(folder, trained(folder, d_sae, 1))


def many_runs(folder: Path, num_runs: int) -> None:
    _warmed(folder, trained(folder, 256, num_runs))


def _warmed(folder: Path, runs: list[Path]) -> None:
    """Lets the model do its part, which all runs share."""
    sp.evaluate(runs[:1], _settings("core"), out=folder / "warmed")


def _settings(name: str, **settings: object) -> dict[str, object]:
    return {"metrics": [{"name": name, **settings}], "features": None, "device": "cpu"}


def core(folder: Path, size: int) -> Act:
    runs = sorted((folder / "runs" / "base").iterdir())
    return lambda: sp.evaluate(runs, _settings("core"), out=folder / f"results-{np.random.SeedSequence().entropy}")


def made_variants(folder: Path, num_runs: int) -> None:
    _made(folder, num_variants=num_runs // 4, num_seeds=4)


def made_seeds(folder: Path, num_runs: int) -> None:
    _made(folder, num_variants=2, num_seeds=num_runs // 2)


def _made(folder: Path, *, num_variants: int, num_seeds: int) -> None:
    """Writes untrained runs with results of core."""
    rng = np.random.default_rng(0)
    for variant in range(num_variants):
        for seed in range(num_seeds):
            penalties = [{"name": "l1", "weight": 1.0 + variant}]
            run = write_run(folder / "runs" / f"v{variant:03d}" / f"seed-{seed}", penalties=penalties)
            write_core(run, 10.0, 0.9 + 0.01 * float(rng.random()))


def compared(folder: Path, num_runs: int) -> Act:
    return lambda: compare(folder / "runs", folder / "runs" / "v000").to_json()


def reported(folder: Path, num_runs: int) -> Act:
    return lambda: report(folder / "runs", folder / "report.html", baseline=folder / "runs" / "v000")


def spelling_run(folder: Path, num_letters: int) -> None:
    """Trains on the toy's spelling documents, and lists the words of some letters."""
    text = folder / "spelling.jsonl"
    spelling = islice(documents(0, kinds=("spelling",)), 1000)
    text.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in spelling))
    source = {"source": str(text), "documents": "document"}
    cache = sp.harvest({**TOY, "dataset": source, "num_tokens": 20_000}, folder / "cache")
    sae = {"name": "topk", "d_sae": 512, "k": 16}
    sp.train({"cache": str(cache.path), "sae": sae, "steps": 200, "batch_size": 512}, folder / "runs")
    letters = sorted({word.strip()[0].lower() for word in WORDS})[:num_letters]
    chosen = [word.strip() for word in WORDS if word.strip()[0].lower() in letters]
    (folder / "words.txt").write_text("\n".join(chosen))


def absorption(folder: Path, num_letters: int) -> Act:
    run = folder / "runs" / "base" / "seed-0"
    settings = _settings("absorption", words=str(folder / "words.txt"))
    return lambda: sp.evaluate(run, settings, out=folder / f"results-{np.random.SeedSequence().entropy}")

"""Runs for reports, with logs, evaluations and a cache whose content a test chooses."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helpers.made_results import HOOK, write_result, write_run
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Finding, Health
from saepipe.data.folders.sealed_result import write_result as write_sealed
from saepipe.evaluate.metrics.base import Figure
from saepipe.evaluate.stats.histograms import COSINE, LOG10_DENSITY
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.train.rundir.import_config import ImportConfig

Term = tuple[float, float]
"""Weighted value of a loss term, and its share of the gradient."""


def write_log(
    run: Path, terms: Mapping[str, Sequence[Term]], every: int = 10, gradients_at: Sequence[int] = ()
) -> Path:
    """Writes metrics.jsonl with one line per element of the terms' sequences; L0 falls, and no latent dies."""
    (num_lines,) = {len(values) for values in terms.values()}
    lines = [
        {
            "step": (index + 1) * every,
            "terms": {
                name: {"value": values[index][0], "weighted": values[index][0], "gradient_share": values[index][1]}
                for name, values in terms.items()
            },
            "l0": 20.0 + 100.0 / (index + 1),
            "fvu": 0.1 + 0.5 / (index + 1),
            "dead": 0,
            **({"gradients_at": gradients_at[index]} if gradients_at else {}),
        }
        for index in range(num_lines)
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return run


def write_evaluation(
    run: Path,
    name: str,
    figures: Mapping[str, Figure | None],
    details: Sequence[Any] = (),
    unstructured: Mapping[str, Any] | None = None,
    **ours: Any,
) -> Path:
    """Writes `eval/<name>.json`; `ours` goes into its saepipe block."""
    core = run / "eval" / "core.json"
    kept = core.read_bytes() if core.exists() else None
    write_result(run, figures)  # all results have the same envelope
    result = json.loads(core.read_text())
    core.unlink() if kept is None else core.write_bytes(kept)
    result |= {"eval_type_id": name, "eval_result_details": list(details)}
    result |= {"eval_result_unstructured": dict(unstructured)} if unstructured else {}
    result["saepipe"] |= ours
    write_sealed(run / "eval" / f"{name}.json", result)
    return run


def write_geometry(run: Path, density: Mapping[int, int], cosines: Mapping[int, int]) -> Path:
    """Writes a result with histograms that have these counts in these bins, and are empty elsewhere."""
    histograms = {
        "log10_density": _histogram(LOG10_DENSITY, density),
        "max_decoder_cosine": _histogram(COSINE, cosines),
        "decoder_cosine": _histogram(COSINE, cosines),
    }
    return write_evaluation(run, "geometry", {"frac_dead": 0.25}, histograms=histograms)


def _histogram(edges: Sequence[float], counts: Mapping[int, int]) -> dict[str, Any]:
    return {"edges": edges, "counts": [counts.get(index, 0) for index in range(len(edges) - 1)]}


def write_absorption(run: Path, letters: Mapping[str, tuple[int, int] | str], **ours: Any) -> Path:
    """Writes by letter (absorbed words, words), or why absorption is not measurable; the fraction is half the rate."""
    details, more, rates = [], [], []
    for letter, content in letters.items():
        absorbed, words = (None, 9) if isinstance(content, str) else content
        rate = None if absorbed is None else absorbed / words
        rates += [] if rate is None else [rate]
        entry = {"first_letter": letter, "full_absorption_rate": rate, "num_probe_true_positives": words}
        details.append(entry | {"mean_absorption_fraction": None if rate is None else rate / 2})
        reason = content if isinstance(content, str) else None
        split = {"split_latents": [ord(letter) % 8], "f1_split": 0.9, "top_absorbers": [[7, 3]] if absorbed else []}
        more.append({"first_letter": letter, "not_measurable": reason, **split})
    mean = sum(rates) / len(rates) if rates else None
    return write_evaluation(run, "absorption", {"mean_full_absorption_score": mean}, details, letters=more, **ours)


def write_probing(run: Path, accuracy: float, dense: float = 0.95) -> Path:
    """Writes a result with one dataset; accuracy rises by 0.01 with each k, and intervals are +- 0.02."""
    figures: dict[str, Figure | None] = {
        f"sae_top_{k}_test_accuracy": Estimate(value, value - 0.02, value + 0.02)
        for index, k in enumerate((1, 2, 5))
        for value in [accuracy + 0.01 * index]
    }
    figures |= {"llm_test_accuracy": dense, "llm_top_1_test_accuracy": 0.6}
    details = [{"dataset_name": "news_results", "sae_top_5_test_accuracy": accuracy, "llm_test_accuracy": dense}]
    intervals = {"sae_top_5_test_accuracy": [accuracy - 0.1, accuracy + 0.1]}
    datasets = {"news": {"intervals": intervals, "latents": {"sport": [1, 2, 3], "war": [2, 3, 4]}}}
    accuracies = {
        "news_results": {f"sae_top_{k}_test_accuracy": {"sport": accuracy, "war": accuracy} for k in (1, 2, 5)}
    }
    return write_evaluation(run, "sparse_probing", figures, details, datasets=datasets, unstructured=accuracies)


def write_imported(run: Path) -> Path:
    """Writes a finished run of an imported SAE, whose training is unknown."""
    config = ImportConfig.parse(
        {
            "imported": "gemma-scope",
            "path": "/elsewhere/params.npz",
            "files": {"params.npz": "ab" * 32},
            "name": run.parent.name,
            "seed": None,
            "sae": {"name": "jumprelu", "d_sae": 8},
            "cache": "nowhere",
            "hook": HOOK,
            "said": {},
        }
    )
    artifact.write_file(run / "config.yaml", config.to_yaml().encode())
    artifact.write_json(run / "sae" / "cfg.json", {"architecture": "jumprelu", "d_in": 4, "d_sae": 8})
    Health().write(run)
    header = {"kind": "run", "cache": "c", "hook": HOOK, "variant": config.name, "seed": 0, "imported": "gemma-scope"}
    header |= {"run_id": config.run_id("c"), "imported_by": {"commit": "two", "torch": "2.13"}}
    return _seal(run, header)


def write_run_on(run: Path, cache: Path, **changes: Any) -> Path:
    """Writes a finished run whose manifest names the cache at `cache`."""
    write_run(run, cache=str(cache), **changes)
    header = artifact.read_manifest(run)[0]
    return _seal(run, header | {"cache": (cache / artifact.COMMITTED).read_text().strip()})


def _seal(run: Path, header: Mapping[str, Any]) -> Path:
    files = artifact.digest_files(run, ["config.yaml", "health.json", "sae/cfg.json"])
    artifact.rewrite_manifest(run, [dict(header), {"files": files}])
    artifact.commit(run)
    return run


def values(spec: Mapping[str, Any], layer: int | None = None) -> list[dict[str, Any]]:
    """Returns the first table of a chart, or that of one of its layers."""
    name = "table0" if layer is None else spec["layer"][layer].get("data", spec.get("data"))["name"]
    return spec["datasets"][name]


def write_study(folder: Path, num_seeds: int = 3) -> dict[str, list[Path]]:
    """Writes three variants at matched L0, by name, with a log and every evaluation that has charts.

    Beside the baseline `l1`, `ortsae` has better explained variance and fewer absorbed words. `placebo` differs by
    noise, and its absorption cannot be compared, because its probes do no better than chance.
    """
    weights = {"l1": 0.0, "placebo": 1e-6, "ortsae": 0.1}
    return {
        name: [_write_seed(folder / name / f"seed-{seed}", weight, name == "placebo") for seed in range(num_seeds)]
        for name, weight in weights.items()
    }


def _write_seed(run: Path, weight: float, at_chance: bool) -> Path:
    ortsae = [{"name": "ortsae", "weight": weight}] if weight else []
    primary = {"explained_variance": 0.01, "mean_full_absorption_score": 0.05}
    dead = Finding.measured("H9", "warning", "{:.0%} of latents are dead", 0.48 + 0.01 * int(run.name[-1]))
    health = Health((dead,) if weight > 0.01 else ())
    write_run(run, health=health, penalties=[{"name": "l1", "weight": 1.0}, *ortsae], primary_metrics=primary)
    seed = int(run.name.removeprefix("seed-"))
    rng = random.Random(f"{run.parent.name} {seed}")
    noise = [rng.gauss(0.0, 0.003) for _ in range(5)]
    ev = 0.8 + 0.3 * weight + 0.01 * seed + noise[0]
    figures = {"delta_ce": 0.3 - weight + 3 * noise[1], "ce_loss_score": 0.97 + 0.1 * weight + noise[2]}
    figures |= {"frac_alive": 0.9 - 0.1 * weight + noise[3], "l0": 20 + 0.2 * seed + 20 * noise[4]}
    write_result(run, {"explained_variance": Estimate(ev, ev - 0.01, ev + 0.01), **figures})
    names = ("reconstruction", "l1", *(["ortsae"] if weight else []))
    write_log(
        run, {name: [(rng.uniform(1, 2) / (1 + t), 0.3 + 0.1 * rng.random()) for t in range(40)] for name in names}
    )
    write_geometry(run, {index: 10 - abs(index - 20 - seed) for index in range(12, 28)}, {20 + seed: 5, 26: 2})
    chance = Finding("H10", "error", "the probes of letters do no better than guessing", evaluation="absorption")
    letters = {letter: (4 + rng.randrange(7) - round(30 * weight), 20) for letter in "abcdefgh"}
    write_absorption(run, letters, findings=[asdict(chance)] if at_chance else [])
    return write_probing(run, 0.8 + weight / 3 + 2 * noise[4])

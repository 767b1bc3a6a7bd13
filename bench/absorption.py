"""Absorption per letter of two SAEs of one width and different L0, on the toy model.

python bench/absorption.py                     # harvest, training and evaluation: some minutes

The text consists only of the toy's spelling documents, in which the first letter matters to the model, so that an SAE
of 512 latents has latents for it.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import write_result

from saepipe.data.toy import documents
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.run import evaluate
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

HOOK, D_SAE, L0 = "blocks.1.hook_resid_post", 512, (8, 32)
NUM_DOCUMENTS, NUM_TOKENS, STEPS = 14_000, 500_000, 1500


def make_runs(folder: Path) -> list[Path]:
    """Trains a TopK SAE for each L0, with otherwise equal settings."""
    text = folder / "spelling.jsonl"
    spelling = islice(documents(0, kinds=("spelling",)), NUM_DOCUMENTS)
    text.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in spelling))
    raw: dict[str, Any] = {
        "model": {"model": "toy", "dtype": "float32", "device": "cpu"},
        "dataset": {"source": str(text), "documents": "document"},
        "hooks": [HOOK],
        "num_tokens": NUM_TOKENS,
        "heldout_tokens": 24_000,
        "heldout_share": 0.08,
    }
    cache = harvest(HarvestConfig.parse(raw), folder / "cache").path
    raw = {
        "cache": str(cache),
        "hook": HOOK,
        "sae": {"name": "topk", "d_sae": D_SAE, "k": L0[0]},
        "penalties": [{"name": "auxk"}],
        "steps": STEPS,
        "batch_size": 1024,
        "optimizer": {"lr": 1e-3},
        "device": "cpu",
        "variants": [{"name": f"k{k}", "sae": {"name": "topk", "d_sae": D_SAE, "k": k}} for k in L0],
    }
    return train(TrainConfig.parse(raw), folder / "runs")


def measure(runs: list[Path], out: Path, mode: str = "fixed") -> tuple[list[dict[str, Any]], float, Passes]:
    """Returns the results of the runs, the seconds of the whole call, and the passes of the model."""
    raw = {"metrics": [{"name": "absorption"}], "mode": mode, "device": "cpu", "batch_size": 64}
    config = EvaluateConfig.parse(raw)
    passes, started = Passes(), time.perf_counter()
    paths = evaluate(runs, config, out=out, passes=passes)
    return [json.loads(path.read_text()) for path in paths], time.perf_counter() - started, passes


def letter_table(result: dict[str, Any]) -> str:
    """Formats one SAE's letters; a letter that is not measurable shows the reason."""
    lines = ["letter  probe F1  true pos.  latents  their F1  (test)  fraction   full  full rate"]
    for detail, letter in zip(result["eval_result_details"], result["saepipe"]["letters"], strict=True):
        lines.append(
            f"{letter['first_letter']:>6}  {letter['f1_probe']:8.2f}  {letter['num_probe_true_positives']:9d}  "
            f"{len(letter['split_latents']):7d}  {letter['f1_split']:8.2f}  {letter['f1_split_test']:6.2f}  "
            + (
                f"not measurable: {letter['not_measurable']}"
                if letter["not_measurable"]
                else f"{detail['mean_absorption_fraction']:8.2f}  {detail['num_full_absorption']:5d}  "
                f"{detail['full_absorption_rate']:9.2f}"
            )
        )
    return "\n".join(lines)


def figures(result: dict[str, Any]) -> dict[str, Any]:
    ours = result["saepipe"]
    keys = ("mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features")
    return {key: [result["eval_result_metrics"]["mean"][key], ours["intervals"].get(key)] for key in keys} | {
        **ours["metrics"],
        "counts": ours["counts"],
        "letters": [
            detail | letter for detail, letter in zip(result["eval_result_details"], ours["letters"], strict=True)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the runs here (default: a temporary folder)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        runs = make_runs(folder)
        cold, cold_seconds, cold_passes = measure(runs, folder / "cold")
        warm, warm_seconds, warm_passes = measure(runs, folder / "warm")
        reference, _, _ = measure(runs, folder / "reference", "reference")
    by_l0 = {f"l0_{k}": figures(result) for k, result in zip(L0, cold, strict=True)}
    same = [figures(result) for result in warm] == list(by_l0.values())
    for name, result in zip(by_l0, cold, strict=True):
        print(f"\n{name}\n{letter_table(result)}")
        print({key: value for key, value in by_l0[name].items() if key != "letters"})
    cost = {
        "seconds": {"first_call": round(cold_seconds, 1), "second_call": round(warm_seconds, 1)},
        "prompts_through_the_model": {"first_call": cold_passes.lower, "second_call": warm_passes.lower},
        "second_call_gives_the_same_numbers": same,
        "mode_reference": [
            result["eval_result_metrics"]["mean"] | result["saepipe"]["metrics"] for result in reference
        ],
    }
    print(cost)
    claim = "absorption per letter at two L0 of one width; letters for which an SAE has no latents are not measurable"
    write_result("absorption", claim, {"d_sae": D_SAE, "hook": HOOK, "steps": STEPS, **by_l0, **cost})


if __name__ == "__main__":
    main()

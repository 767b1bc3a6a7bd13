"""Scores read back from delphi's files, written by hand here, and by delphi's own scorers where it is installed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from scipy import stats

from helpers.result_schemas import check
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.remote.run_folders import run_folders
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.export.delphi import export_delphi
from saepipe.evaluate.features.roles import roles
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

HOOK = "blocks.1.hook_resid_post"
MODULE = "layers.1"
YES, NO, LOST = True, False, None


@pytest.fixture(scope="module")
def runs(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns two seeds of a TopK that was trained briefly."""
    settings = {"cache": str(toy_cache), "hook": HOOK, "device": "cpu", "steps": 20, "batch_size": 256, "seeds": [0, 1]}
    sae = {"sae": {"name": "topk", "d_sae": 50, "k": 3}, "penalties": []}
    return run_folders(train(TrainConfig.parse(settings | sae), tmp_path_factory.mktemp("runs")))


@pytest.fixture
def results(runs: list[Path], tmp_path: Path) -> Path:
    """Returns delphi's folder of the first run, with three latents: right, guessed, and hardly answered."""
    folder = tmp_path / "results" / "mine"
    export_delphi(runs[0], folder / "latents", num_contexts=5, device="cpu")
    for latent, text in ((4, "verbs"), (17, "Explanation could not be parsed."), (9, "names")):
        write(folder, "explanations", latent, text)
    write(folder, "scores/detection", 4, windows([(True, YES)] * 3 + [(False, NO)] * 5))
    write(folder, "scores/detection", 17, windows([(True, YES), (True, NO), (False, YES), (False, NO), (True, LOST)]))
    write(folder, "scores/detection", 9, windows([(True, YES), (True, LOST), (False, LOST)]))
    write(folder, "scores/fuzz", 4, windows([(True, YES), (True, YES), (True, YES), (True, NO), (False, NO)]))
    return folder


def write(folder: Path, kind: str, latent: int, plain: Any) -> None:
    """Writes a file as delphi 0.1.3 does (`orjson.dumps` of what it has, in delphi/__main__.py)."""
    path = folder / kind / f"{MODULE}_latent{latent}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, separators=(",", ":")))


def windows(answers: Sequence[tuple[bool, bool | None]]) -> list[dict[str, Any]]:
    """Returns windows with the fields of delphi's `ClassifierOutput`, in its order, by truth and prediction."""
    return [
        {
            "str_tokens": ["so", " it", " goes"],
            "activations": [0.0, 1.5 * activating, 0.0],
            "distance": 3 if activating else -1.0,
            "activating": activating,
            "prediction": prediction,
            "probability": None,
            "correct": None if prediction is None else prediction == activating,
        }
        for activating, prediction in answers
    ]


def settings(*folders: Path) -> dict[str, Any]:
    metric = {"name": "delphi", "results": [str(folder) for folder in folders]}
    return {"device": "cpu", "features": None, "metrics": [metric]}


def measured(runs: Sequence[Path], *folders: Path) -> list[Mapping[str, Any]]:
    """Returns the results of runs."""
    results = [json.loads(path.read_text()) for path in evaluate(runs, settings(*folders))]
    for result in results:
        check(result)
    return results


def planned(runs: Sequence[Path], *folders: Path) -> Mapping[str, Any]:
    return plan(runs, EvaluateConfig.parse(settings(*folders)))


def test_figures_are_means_over_latents(runs: list[Path], results: Path) -> None:
    (result,) = measured(runs[:1], results)
    figures, ours = result["eval_result_metrics"]["delphi"], result["saepipe"]
    accuracies = [1.0, 0.5]  # latent 9 has no answer on a silent window
    assert figures == {"delphi_detection_score": 0.75, "delphi_fuzzing_score": (3 / 4 + 1) / 2}
    half = stats.t.ppf(0.975, 1) * np.std(accuracies, ddof=1) / np.sqrt(2)
    assert ours["intervals"]["delphi_detection_score"] == pytest.approx([0.75 - half, 0.75 + half])
    right = (3 + 1 + 1) / (3 + 2 + 1), (5 + 1) / (5 + 2)
    assert ours["metrics"]["delphi_detection_pooled"] == pytest.approx(sum(right) / 2)
    assert ours["counts"] == {"latents": 3, "windows": 21, "unreadable": 3, "unparsed_explanations": 1}
    assert ours["warnings"] == ["delphi scored 1 of 3 latents without an explanation"]


def test_the_browser_shows_explanations_and_scores(runs: list[Path], results: Path) -> None:
    measured(runs[:1], results)
    by_latent = {latent: [role.text for role in of] for latent, of in roles(runs[0]).items()}
    assert by_latent[4] == ['explained by delphi as "verbs" (detection 1.00, fuzzing 0.88)']
    assert by_latent[9] == ['explained by delphi as "names"']


def test_a_run_finds_its_own_scores(runs: list[Path], results: Path, tmp_path: Path) -> None:
    other = tmp_path / "results" / "other"
    export_delphi(runs[1], other / "latents", num_contexts=5, device="cpu")
    write(other, "scores/fuzz", 2, windows([(True, YES), (False, YES)]))
    first, second = (result["eval_result_metrics"]["delphi"] for result in measured(runs, results, other))
    assert first["delphi_detection_score"] == 0.75
    assert second == {"delphi_detection_score": None, "delphi_fuzzing_score": 0.5}
    _, alone = measured(runs, results)
    assert alone["eval_result_metrics"]["delphi"]["delphi_fuzzing_score"] is None
    assert "holds scores of base/seed-1" in alone["saepipe"]["undefined"]["delphi_fuzzing_score"]
    copy = tmp_path / "copy"
    copy.symlink_to(other)
    with pytest.raises(ConfigError, match="hold scores of one run"):
        planned(runs, other, copy)


def test_scores_that_change_are_read_again(runs: list[Path], results: Path) -> None:
    measured(runs[:1], results)
    assert planned(runs[:1], results)["measure"] == []
    write(results, "scores/fuzz", 4, windows([(True, YES), (False, YES)]))
    (result,) = measured(runs[:1], results)
    assert result["eval_result_metrics"]["delphi"]["delphi_fuzzing_score"] == 0.5


def test_folders_that_are_not_delphis_are_refused(runs: list[Path], results: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no scores of delphi"):
        planned(runs, tmp_path)
    config = results / "latents" / MODULE / "config.json"
    config.write_text("{}")  # as delphi itself writes it: of no run of ours
    with pytest.raises(ConfigError, match="tells of which run the scores are") as raised:
        planned(runs, results)
    assert "--to delphi --out" in str(raised.value.hint)


@pytest.mark.parametrize("wrong", [{"mean": 0.5}, [0.5], "0.5", [{"activating": True}]])
def test_other_files_are_named(runs: list[Path], results: Path, wrong: Any) -> None:
    write(results, "scores/detection", 4, wrong)
    with pytest.raises(CorruptDataError, match=r"layers.1_latent4.txt is no list of delphi's predictions"):
        evaluate(runs[:1], settings(results))


@pytest.mark.interop
def test_delphis_own_scorers_write_what_is_read(
    runs: list[Path], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export goes through delphi's sampler and scorers, whose judge says yes, no, yes, no, yes of each five windows.

    delphi imports vllm for local judges, and does without it here: docs/exports.md tells how to install the rest.
    """
    for name in ("vllm", "vllm.distributed", "vllm.distributed.parallel_state", "vllm.inputs"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    scorers = pytest.importorskip("delphi.scorers", reason="delphi is not installed")
    from delphi import config
    from delphi.clients.client import Response
    from delphi.latents import LatentDataset

    async def generate(prompt: Any, **kwargs: Any) -> Response:
        return Response(text="[1, 0, 1, 0, 1]")

    export_delphi(runs[0], results.parent / "whole" / "latents", device="cpu")
    dataset = LatentDataset(
        results.parent / "whole" / "latents",
        config.SamplerConfig(n_examples_train=4, n_examples_test=10, n_quantiles=2, train_type="top"),
        config.ConstructorConfig(example_ctx_len=32, min_examples=20, n_non_activating=10),
        tokenizer=SimpleNamespace(batch_decode=lambda tokens: [f"[{token}]" for token in tokens.tolist()]),
        latents={MODULE: torch.arange(0, 50, 3)},
    )
    expected: dict[str, list[float]] = {"detection": [], "fuzz": []}
    client = SimpleNamespace(generate=generate)
    for record in dataset:
        record.explanation, record.extra_examples = "a token", record.not_active
        write(results.parent / "whole", "explanations", record.latent.latent_index, record.explanation)
        for scorer in (
            scorers.DetectionScorer(client, n_examples_shown=5),
            scorers.FuzzingScorer(client, n_examples_shown=5),
        ):
            outputs = asyncio.run(scorer(record)).score
            write(
                results.parent / "whole",
                f"scores/{scorer.name}",
                record.latent.latent_index,
                list(map(asdict, outputs)),
            )
            shares = [np.mean([o.correct for o in outputs if o.activating == side]) for side in (True, False)]
            expected[scorer.name].append(float(np.mean(shares)))
    assert len(expected["fuzz"]) > 3
    (result,) = measured(runs[:1], results.parent / "whole")
    figures = result["eval_result_metrics"]["delphi"]
    assert figures["delphi_detection_score"] == pytest.approx(np.mean(expected["detection"]))
    assert figures["delphi_fuzzing_score"] == pytest.approx(np.mean(expected["fuzz"]))

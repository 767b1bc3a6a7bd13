"""An imported SAE beside our own: the same SAE has the same figures, and rules about training do not apply to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.dictionaries import import_here
from saepipe.data.cache.cache import Cache
from saepipe.evaluate.compare.table import Table, compare
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.store import FeatureStore
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load

FEATURES = {"num_tokens": 1000, "num_logits": 0}
CONFIG = EvaluateConfig.parse({"device": "cpu", "features": FEATURES, "metrics": [{"name": "core", "num_contexts": 6}]})
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def runs(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Returns two runs of our own, then the first of them imported from dictionary_learning's format as two seeds."""
    folder = tmp_path_factory.mktemp("imported")
    raw = {"cache": str(toy_cache), "hook": HOOK, "device": "cpu", "sae": {"name": "relu", "d_sae": 96}}
    raw |= {"penalties": [{"name": "l1", "weight": 1.0}], "steps": 40, "batch_size": 256, "optimizer": {"lr": 3e-3}}
    own = train(TrainConfig.parse({**raw, "variants": {"grid": {"penalties.0.weight": [1.0, 4.0]}}}), folder / "own")
    sae = load(own[0])
    weights = {
        "encoder.weight": sae.W_enc.T,
        "encoder.bias": sae.b_enc,
        "decoder.weight": sae.W_dec.T,
        "bias": sae.b_dec,
    }
    trainer = {"dict_class": "AutoEncoder", "layer": 1, "lm_name": Cache.open(toy_cache).attributes["model"]["id"]}
    theirs = []
    for seed in (0, 1):
        path = folder / "theirs" / f"trainer_{seed}"
        path.mkdir(parents=True)
        torch.save({name: value.detach().contiguous() for name, value in weights.items()}, path / "ae.pt")
        (path / "config.json").write_text(json.dumps({"trainer": trainer | {"seed": seed}}))
        out = folder / "imported" / str(seed)
        theirs.append(import_here(path, "dictionary_learning", toy_cache, out, name="theirs"))
    evaluate([*own, *theirs], CONFIG)
    return [*own, *theirs]


def figures(run: Path) -> dict[str, float]:
    groups = json.loads((run / "eval" / "core.json").read_text())["eval_result_metrics"]
    return {key: value for group in groups.values() for key, value in group.items()}


def row(table: Table, number: int) -> dict[str, str]:
    return {column: str(cell) for column, cell in zip(table.columns, table.rows[number], strict=True)}


def test_the_same_sae_has_the_same_figures(runs: list[Path]) -> None:
    own, imported = figures(runs[0]), figures(runs[2])
    assert own["l0"] > 1
    assert own["explained_variance"] > 0.3
    assert imported == pytest.approx(own, rel=1e-5)
    assert figures(runs[1]) != pytest.approx(own, rel=1e-2)
    result = json.loads((runs[2] / "eval" / "core.json").read_text())
    assert result["sae_lens_release_id"] == "theirs/seed-0"
    assert result["saepipe"]["seeds"] == {"seed": 0, "data_seed": None}
    assert plan(runs, CONFIG)["measure"] == []


def test_the_same_sae_has_the_same_features(runs: list[Path]) -> None:
    own, imported = FeatureStore.open(runs[0]), FeatureStore.open(runs[2])
    assert (own.info.num_tokens, imported.info.num_tokens) == (1000, 1000)
    np.testing.assert_allclose(imported.columns["max_act"], own.columns["max_act"], rtol=1e-5)
    np.testing.assert_allclose(imported.decoder, own.decoder, atol=1e-6)
    busiest = int(own.columns["num_active"].argmax())
    assert imported.latent(busiest).examples[0].tokens == own.latent(busiest).examples[0].tokens


def test_the_table_has_no_column_that_an_imported_run_cannot_fill(runs: list[Path]) -> None:
    table = compare([runs[0], runs[2]])
    assert table.columns[:3] == ("run", "imported", "health")
    assert (row(table, 0)["imported"], row(table, 1)["imported"]) == ("-", "dictionary_learning: theirs")
    assert row(table, 1)["health"] == "not known"
    assert row(table, 0)["L0"] == row(table, 1)["L0"]
    assert compare(runs[:3]).columns[:3] == ("run", "penalties.0.weight", "imported")


def test_seeds_of_an_imported_sae_are_one_variant(runs: list[Path]) -> None:
    table = compare(runs[2:])
    assert "imported" not in table.columns
    assert row(table, 2)["run"] == "theirs (mean, n=2)"


@pytest.mark.parametrize("baseline", [0, 2])
def test_no_rule_of_training_applies_to_an_imported_run(runs: list[Path], baseline: int) -> None:
    """The weights are identical: for two runs of ours, H3 would say that their different settings did nothing."""
    table = compare([runs[0], *runs[2:]], runs[baseline])
    (verdict,) = table.verdicts
    assert not {"H2", "H3", "H13", "H16"} & {finding.rule for finding in verdict.forbidden_by}
    assert not any(str(note).startswith(("H13", "H16")) for note in table.notes)

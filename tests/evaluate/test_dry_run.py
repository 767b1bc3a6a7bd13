"""The dry run: what is measured and skipped without a network, and the time of core."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from helpers.random_runs import random_run
from saepipe.data import toy
from saepipe.data.errors import RemoteError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.dry_run import dry_run, page
from saepipe.evaluate.plan import plan
from saepipe.harvest.run import harvest

DEFAULTS = EvaluateConfig.parse({"device": "cpu"})
CORE = {"device": "cpu", "metrics": [{"name": "core", "num_contexts": 2}], "features": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a run on a cache of text of one's own and a model from a folder, so that nothing says `toy`."""
    folder = tmp_path_factory.mktemp("own")
    texts = "\n\n".join(document.text for document, _ in zip(toy.documents(seed=5), range(60), strict=False))
    (folder / "own.txt").write_text(texts)
    config = {
        "model": {"model": str(toy.MODEL_DIR), "dtype": "float32", "device": "cpu"},
        "dataset": {"source": str(folder / "own.txt")},
        "num_tokens": 1000,
        "heldout_tokens": 512,
        "heldout_share": 0.3,
        "shard_rows": 1024,
        "batch_size": 4,
    }
    return random_run(folder / "relu" / "seed-0", "relu", harvest(config, folder / "cache").path)


def test_default_metrics_are_skipped_if_their_texts_cannot_be_had(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    planned = plan([run], DEFAULTS)
    assert [Path(path).stem for path in planned["measure"]] == ["core", "absorption", "geometry"]
    (skipped,) = planned["skipped"]
    assert skipped.startswith("sparse_probing is skipped: cannot get the dataset 'LabHC/bias_in_bios'")
    assert "source: mine.csv" in skipped
    with pytest.raises(RemoteError, match="LabHC/bias_in_bios"):
        plan([run], EvaluateConfig.parse({"device": "cpu", "metrics": [{"name": "sparse_probing"}]}))


def test_the_time_of_core_is_measured(run: Path) -> None:
    planned = dry_run([run], EvaluateConfig.parse(CORE), seconds=0)
    assert planned["seconds"] > 0
    assert planned["not_timed"] == []
    assert page(planned)["measure"] == "1 results: core"
    assert page(planned)["time"].startswith("core about ")

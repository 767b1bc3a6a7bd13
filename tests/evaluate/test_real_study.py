"""The configs of `demo --real`: valid, matched in L0, and filled in for this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.device import fast_dtype, pick_device
from saepipe.data.smollm2 import CONFIGS
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.real_study import harvest_config
from saepipe.train.config import TrainConfig
from saepipe.train.variants import expand

pytestmark = pytest.mark.quick


def test_the_harvest_reads_the_given_model_and_text(tmp_path: Path) -> None:
    config = harvest_config(tmp_path / "model", tmp_path / "my: text.jsonl")
    assert config.model.model == str(tmp_path / "model")
    assert config.model.dtype == fast_dtype(pick_device("auto"))
    assert (config.dataset.source, config.dataset.columns) == (str(tmp_path / "my: text.jsonl"), ("text",))


def test_every_variant_has_three_seeds_and_the_same_l0() -> None:
    study = TrainConfig.load(CONFIGS / "train.yaml")
    variants = expand(study)
    assert [variant.folder for variant in variants][:1] == ["baseline/seed-0"]
    assert len(variants) == 3 * len({variant.name for variant in variants})
    assert {variant.config.sae.k for variant in variants} == {16}


def test_evaluation_needs_no_network() -> None:
    config = EvaluateConfig.load(CONFIGS / "evaluate.yaml")
    assert {metric.name for metric in config.metrics} <= {"core", "absorption"}

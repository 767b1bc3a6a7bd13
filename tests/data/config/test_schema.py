"""JSON schemas for editors: they accept all that Config.parse accepts, and reject mistakes in single values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from helpers.repository import ROOT
from saepipe.data.config.base import Config
from saepipe.data.config.component import import_plugins
from saepipe.data.config.schema import json_schema
from saepipe.data.errors import ConfigError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.validate.config import ValidateConfig
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import Penalty

STAGES: dict[str, type[Config]] = {
    "harvest": HarvestConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "validate": ValidateConfig,
    "study": StudyConfig,
}
DEMOS = ROOT / "saepipe" / "data"
FILES = {
    "train": [
        *ROOT.glob("configs/study-*.yaml"),
        ROOT / "configs/synthbench-cpu.yaml",
        *DEMOS.glob("*/configs/train.yaml"),
    ],
    "harvest": [ROOT / "configs/gemma-2-2b-l19.yaml", *DEMOS.glob("*/configs/harvest.yaml")],
    "evaluate": [ROOT / "examples/ag_news.yaml", *DEMOS.glob("*/configs/evaluate.yaml")],
    "study": [ROOT / "examples/study.yaml"],
}
RUN = "{cache: c, sae: {name: relu, d_sae: 8}, steps: 5"


@pytest.fixture(scope="module")
def validators() -> dict[str, Draft202012Validator]:
    import_plugins([ROOT / "configs" / "study_as_coded.py"])
    schemas = {stage: json_schema(config) for stage, config in STAGES.items()}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    return {stage: Draft202012Validator(json.loads(json.dumps(schema))) for stage, schema in schemas.items()}


def test_every_config_in_the_repository_is_tested() -> None:
    patterns = ("configs/*.yaml", "examples/*.yaml", "saepipe/data/*/configs/*.yaml")
    assert {path for pattern in patterns for path in ROOT.glob(pattern)} == {
        path for paths in FILES.values() for path in paths
    }


@pytest.mark.parametrize(
    ("stage", "path"),
    [
        pytest.param(stage, path, id=str(path.relative_to(ROOT)))
        for stage, paths in FILES.items()
        for path in sorted(paths)
    ],
)
def test_every_config_in_the_repository_is_valid(
    validators: dict[str, Draft202012Validator], stage: str, path: Path
) -> None:
    assert [error.message for error in validators[stage].iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ("train", RUN + "}"),
        ("train", RUN.replace("5", "10k") + ", batch_size: 1e3}"),
        ("train", RUN.replace("steps: 5", "tokens: 1.5B") + ", penalties: []}"),
        ("train", RUN + ", penalties: [{name: l1, weight: 1}]}"),
        ("train", RUN + ", penalties: [{name: l1, weight: {start: 1.0, end: 0.1, shape: cosine, finish: 0.5}}]}"),
        ("train", RUN + ", penalties: [{name: l1, weight: {steer: l0, to: 4, start: 0.1}}]}"),
        ("train", RUN + ", penalties: [{name: l0_target, l0: 4, penalty: {name: l1, weight: 0.1}}]}"),
        ("train", RUN + ", variants: [{name: a}, {penalties.0.weight: 2, sae: {name: topk, d_sae: 8, k: 2}}]}"),
        ("train", RUN + ", variants: {grid: {sae.d_sae: [8, 16], seed_of_nothing: [a]}}}"),
        ("train", RUN + ", seeds: [0, 1], trackers: [wandb, tensorboard], optimizer: {clip: null, betas: [0, 0.9]}}"),
        ("train", RUN + ", exact: null, hook: null, resident: ram, primary_metrics: {delta_ce: 0.1}}"),
        ("harvest", "{}"),
        ("harvest", "{hooks: blocks.0.hook_resid_post, dataset: {source: a.csv, columns: 1}, num_tokens: 3M}"),
        ("harvest", "{dataset: {columns: [title, text]}, codec: none, drop_norm_above: 10}"),
        ("evaluate", "{}"),
        ("evaluate", "{metrics: [{name: core}, {name: sparse_probing, datasets: [toy_gender, fancyzhx/ag_news]}]}"),
        (
            "evaluate",
            "{metrics: [{name: sparse_probing, datasets: [{name: mine, source: a.csv, text: 1, classes: [1, b]}]}]}",
        ),
        ("evaluate", "{features: null, batch_size: 4, cache: ../c, mode: reference}"),
        ("validate", "{}"),
        ("validate", "{worlds: {one: {child_cosine: 0.5}}, steps: 2k, processes: 0, choice_worlds: [one]}"),
        ("validate", "{baselines: {relu: {sweep: [1, 2, 3, 4], l0: 4}}, num_seeds: 2}"),
    ],
)
def test_configs_that_parse_are_valid(validators: dict[str, Draft202012Validator], stage: str, text: str) -> None:
    raw = yaml.safe_load(text)
    STAGES[stage].parse(raw)
    assert [error.message for error in validators[stage].iter_errors(raw)] == []


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        ("train", RUN + ", step: 5}"),
        ("train", RUN + ", penalties: [{name: l2, weight: 1}]}"),
        ("train", RUN + ", penalties: [{weight: 1}]}"),
        ("train", RUN + ", penalties: [{name: l1, weigth: 1}]}"),
        ("train", RUN + ", penalties: [{name: l1, weight: much}]}"),
        ("train", RUN + ", penalties: [{name: l1, weight: {start: 1, end: 0, shape: round}}]}"),
        ("train", RUN + ", penalties: {name: l1, weight: 1}}"),
        ("train", RUN.replace("relu", "l1") + "}"),
        ("train", RUN.replace(", d_sae: 8", "") + "}"),
        ("train", RUN.replace("cache: c, ", "") + "}"),
        ("train", RUN.replace("5", "10X") + "}"),
        ("train", RUN.replace("5", "0") + "}"),
        ("train", RUN.replace("5", "2.5") + "}"),
        ("train", RUN + ", trackers: [mlflow]}"),
        ("train", RUN + ", optimizer: {lr: 0}}"),
        ("train", RUN + ", optimizer: {betas: [0.9]}}"),
        ("train", RUN + ", variants: {list: []}}"),
        ("harvest", "{codec: zip}"),
        ("harvest", "{num_tokens: 0}"),
        ("harvest", "{dataset: {source: 3}}"),
        ("evaluate", "{metrics: [core]}"),
        ("evaluate", "{metrics: [{name: sparse_probing, datasets: [{source: a.csv}]}]}"),
        ("evaluate", "{dtype: int8}"),
        ("validate", "{baselines: {topk: {sweep: [1, 2, 3, 4], l0: 4}}}"),
        ("validate", "{num_seeds: 1}"),
    ],
)
def test_configs_that_do_not_parse_are_invalid(
    validators: dict[str, Draft202012Validator], stage: str, text: str
) -> None:
    raw = yaml.safe_load(text)
    with pytest.raises(ConfigError):
        STAGES[stage].parse(raw)
    assert not validators[stage].is_valid(raw)


def test_descriptions_for_editors(validators: dict[str, Draft202012Validator]) -> None:
    schema: dict[str, Any] = dict(validators["train"].schema)  # type: ignore[arg-type]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["$id"], schema["title"]) == ("urn:saepipe:train", "saepipe train")
    assert schema["properties"]["batch_size"]["default"] == 2048
    assert schema["properties"]["batch_size"]["minimum"] == 1
    assert schema["properties"]["data_seed"]["description"] == "seed of the order of the data"
    names = {member["$ref"].rsplit("/", 1)[-1] for member in schema["$defs"]["Penalty"]["oneOf"]}
    assert {schema["$defs"][name]["properties"]["name"]["const"] for name in names} == set(Penalty.members)
    assert "acts_i |W_dec_i|" in schema["$defs"]["L1"]["description"]
    metrics = validators["evaluate"].schema["$defs"]["LabelledDatasetConfig"]["properties"]  # type: ignore[index]
    assert metrics["join"].keys() == {"type", "default"}
    assert metrics["name"]["description"] == "Name in results."  # the docstring below the field


def test_no_title_repeats_a_key(validators: dict[str, Draft202012Validator]) -> None:
    for validator in validators.values():
        definitions = [validator.schema, *validator.schema["$defs"].values()]  # type: ignore[index]
        properties = [item for definition in definitions for item in definition.get("properties", {}).items()]
        assert not [key for key, item in properties if "title" in item]


def test_an_imported_plugin_is_in_the_schema() -> None:
    import_plugins([ROOT / "examples" / "hoyer.py"])
    names = json.dumps(json_schema(TrainConfig)["$defs"]["Penalty"])
    assert '"#/$defs/Hoyer"' in names

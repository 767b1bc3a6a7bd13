"""Entities and templates from rows, from RAVEL's own JSON files and from the hub."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.local_hub import Hub, Repo, serve
from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.ravel.entities import EntityClass, EntityClassConfig, read_entity_class

ENTITIES = [
    {"entity": "Lima", "Country": "Peru", "Language": "Spanish,Quechua"},
    {"entity": "Oslo ", "Country": "Norway", "Language": ""},
    {"entity": "Lima", "Country": "United States", "Language": "English"},
    {"entity": "Atlantis", "Country": None, "Language": "Greek"},
]
TEMPLATES = [
    {"attribute": "Country", "template": "%s is in"},
    {"attribute": "Language", "template": "In %s they speak"},
    {"attribute": "Timezone", "template": "%s and %s"},
    {"attribute": "Country", "template": "%s is in"},
    {"attribute": "Country", "template": "The country of %s is"},
]


def config(folder: Path, **changes: Any) -> EntityClassConfig:
    plain = {
        "name": "city",
        "entities": {"source": str(folder / "entities.jsonl")},
        "templates": {"source": str(folder / "templates.jsonl")},
        "attributes": ["Country", "Language"],
    }
    return EntityClassConfig.parse(plain | changes)


def write(folder: Path, entities: list[dict[str, Any]] = ENTITIES, templates: list[dict[str, Any]] = TEMPLATES) -> None:
    (folder / "entities.jsonl").write_text("\n".join(map(json.dumps, entities)))
    (folder / "templates.jsonl").write_text("\n".join(map(json.dumps, templates)))


def read(settings: EntityClassConfig) -> EntityClass:
    return read_entity_class(settings, settings.key())


def test_rows_by_name(tmp_path) -> None:
    write(tmp_path)
    cities = read(config(tmp_path))
    assert cities.labels == {
        "Lima": {"Country": "Peru", "Language": "Spanish,Quechua"},
        "Oslo": {"Country": "Norway"},
        "Atlantis": {"Language": "Greek"},
    }
    assert cities.templates == {"Country": ("%s is in", "The country of %s is"), "Language": ("In %s they speak",)}
    assert read(config(tmp_path, label_separator=",")).labels["Lima"]["Language"] == "Spanish"


@pytest.mark.parametrize("indent", [None, 2])
def test_the_json_files_of_the_authors(tmp_path, indent) -> None:
    entities = {"Lima": {"Country": "Peru", "Language": "Spanish", "Timezone": "America/Lima"}}
    templates = {"Country": ["%s is in"], "Language": ["In %s they speak"], "Timezone": ["%s, UTC"]}
    (tmp_path / "ravel_city_entity_attributes.json").write_text(json.dumps(entities, indent=indent))
    (tmp_path / "ravel_city_attribute_to_prompts.json").write_text(json.dumps(templates, indent=indent))
    files = {
        "entities": {"source": str(tmp_path / "ravel_city_entity_attributes.json")},
        "templates": {"source": str(tmp_path / "ravel_city_attribute_to_prompts.json")},
    }
    cities = read(config(tmp_path, **files))
    assert cities.labels == {"Lima": {"Country": "Peru", "Language": "Spanish"}}
    assert cities.templates == {"Country": ("%s is in",), "Language": ("In %s they speak",)}


@pytest.mark.parametrize(
    ("template", "attributes", "message"),
    [
        ("It is in", ["Country", "Language"], "without exactly one %s: 'It is in'"),
        ("%s and %s", ["Country", "Language"], "without exactly one %s"),
        ("%s is in", ["Country", "Continent"], "no column 'Continent'"),
        ("%s is in", ["Country", "entity"], "no template that asks for 'entity'"),
    ],
)
def test_mistakes_are_named(tmp_path, template, attributes, message) -> None:
    write(tmp_path, templates=[*TEMPLATES, {"attribute": "Country", "template": template}])
    with pytest.raises(ConfigError, match=message):
        read(config(tmp_path, attributes=attributes))


def test_a_missing_file_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        config(tmp_path).key()


def test_the_default_reads_the_dataset_of_the_authors(tmp_path: Path) -> None:
    """A hub serves a dataset of the published layout: two subsets, whose columns the default names."""
    subsets = {
        "city_entity": {"City": ["Lima"], "Country": ["Peru"], "Continent": ["South America"], "Language": ["Spanish"]},
        "city_prompt": {
            "Template": ["%s is in", "%s lies in", "In %s they speak", "%s, a port"],
            "Attribute": ["Country", "Continent", "Language", "Other"],
        },
    }
    files = {f"{name}/train-00000-of-00001.parquet": parquet(columns) for name, columns in subsets.items()}
    layout = "".join(f"- config_name: {n}\n  data_files: [{{split: train, path: {n}/train*}}]\n" for n in subsets)
    files["README.md"] = f"---\nconfigs:\n{layout}---\n".encode()
    program = (
        "from saepipe.evaluate.metrics.ravel.entities import CITY, read_entity_class\n"
        "cities = read_entity_class(CITY, CITY.key())\nprint(dict(cities.labels), dict(cities.templates))\n"
    )
    with serve(Hub({"datasets/hij/ravel": Repo([files])})) as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        plain = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        done = subprocess.run([sys.executable, "-c", program], env=plain | own, capture_output=True, text=True)
    labels = {"Lima": {"Country": "Peru", "Continent": "South America", "Language": "Spanish"}}
    templates = {"Country": ("%s is in",), "Continent": ("%s lies in",), "Language": ("In %s they speak",)}
    assert done.stdout.strip() == f"{labels} {templates}", done.stderr


def parquet(columns: dict[str, list[str]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)  # type: ignore[no-untyped-call]
    return file.getvalue()

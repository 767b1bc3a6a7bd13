"""Entities with their attributes, and the templates that ask for one attribute of any entity."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from saepipe.data.config.base import Config
from saepipe.data.config.bounds import PathText
from saepipe.data.errors import ConfigError
from saepipe.evaluate.texts.dataset_source import dataset_key
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.text import read_rows, value_of

SLOT = "%s"
"""The place of the entity in a template."""


class RowsConfig(Config):
    """Rows of a hub dataset or of a file."""

    source: PathText
    """Hub id, or a .jsonl, .json, .csv or .parquet file."""
    subset: str | None = None
    split: str = "train"
    revision: str | None = None

    @property
    def dataset(self) -> DatasetConfig:
        return DatasetConfig(source=self.source, subset=self.subset, split=self.split, revision=self.revision)


class EntityClassConfig(Config):
    """A class of entities, such as cities, and the attributes to tell apart."""

    name: str
    """Name in results."""
    entities: RowsConfig
    """One row per entity: its name, and a label per attribute."""
    templates: RowsConfig
    """One row per template: the text, in which %s stands for the entity, and the attribute that it asks for."""
    attributes: tuple[str, ...] = Field(min_length=2)
    """Columns of `entities`, and values of `attribute` in `templates`; templates of other attributes are not used."""
    entity: str = "entity"
    """Column of `entities` with the name."""
    template: str = "template"
    """Column of `templates` with the text."""
    attribute: str = "attribute"
    """Column of `templates` with the attribute."""
    label_separator: str | None = None
    """Only the part of a label before this is asked for: "," makes "English,Hindi" English."""

    @field_validator("attributes")
    @classmethod
    def _check_distinct(cls, attributes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(attributes)) < len(attributes):
            raise ValueError(f"{', '.join(attributes)} names an attribute twice")
        return attributes

    def key(self) -> dict[str, Any]:
        """Returns what decides the content, with the files' digests or the hub's revision instead of paths.

        Raises:
            ConfigError: if a file does not exist.
            RemoteError: if a hub does not know the dataset, or cannot be reached.
        """
        sources = {name: dataset_key(getattr(self, name).dataset) for name in ("entities", "templates")}
        return self.to_dict() | sources


CITY = EntityClassConfig(
    name="city",
    entities=RowsConfig(source="hij/ravel", subset="city_entity"),
    templates=RowsConfig(source="hij/ravel", subset="city_prompt"),
    attributes=("Country", "Continent", "Language"),
    entity="City",
    template="Template",
    attribute="Attribute",
    label_separator=",",
)
"""Cities as the authors of RAVEL publish them, with the attributes that SAEBench uses."""


@dataclass(frozen=True)
class EntityClass:
    """The entities of a class, and its templates."""

    labels: Mapping[str, Mapping[str, str]]
    """by entity, by attribute; an attribute without a label is left out"""
    templates: Mapping[str, tuple[str, ...]]
    """by attribute"""


def read_entity_class(config: EntityClassConfig, key: Mapping[str, Any]) -> EntityClass:
    """Reads entities and templates; of two rows with one entity the first counts.

    Args:
        config: where the rows are.
        key: `config.key()`, whose revisions are read.

    Raises:
        ConfigError: if a file, a split or a column does not exist, a template has no place for the entity, or an
            attribute has no template.
        RemoteError: if a hub does not provide a dataset.
    """
    labels: dict[str, dict[str, str]] = {}
    for row in _rows(config.entities, key["entities"], lambda name, values: [{config.entity: name, **values}]):
        name = str(value_of(config.entities.source, row, config.entity)).strip()
        if name and name not in labels:
            labels[name] = _labels(config, row)

    def of_attribute(name: str, texts: Iterable[str]) -> list[dict[str, str]]:
        return [{config.attribute: name, config.template: text} for text in texts]

    templates: dict[str, dict[str, None]] = {attribute: {} for attribute in config.attributes}
    for row in _rows(config.templates, key["templates"], of_attribute):
        attribute = value_of(config.templates.source, row, config.attribute)
        if attribute in templates:
            templates[attribute][_template(config, row)] = None
    for attribute, texts in templates.items():
        if not texts:
            problem = f"{config.templates.source} has no template that asks for {attribute!r}"
            raise ConfigError(problem, hint=f"add one, or leave it out of the attributes of {config.name}")
    return EntityClass(labels, {attribute: tuple(texts) for attribute, texts in templates.items()})


def _labels(config: EntityClassConfig, row: Mapping[Any, Any]) -> dict[str, str]:
    values = {name: value_of(config.entities.source, dict(row), name) for name in config.attributes}
    texts = {name: "" if value is None else str(value) for name, value in values.items()}
    if config.label_separator:
        texts = {name: text.partition(config.label_separator)[0] for name, text in texts.items()}
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def _template(config: EntityClassConfig, row: dict[Any, Any]) -> str:
    text = str(value_of(config.templates.source, row, config.template))
    if text.count(SLOT) != 1:
        problem = f"{config.templates.source} has a template without exactly one {SLOT}: {text!r}"
        raise ConfigError(problem, hint=f"write {SLOT} once, where the entity stands")
    return text


def _rows(
    config: RowsConfig, key: Mapping[str, Any], rows_of: Callable[[str, Any], list[dict[str, Any]]]
) -> Iterable[dict[Any, Any]]:
    """Yields rows; `rows_of` makes them from the entries of a .json file that holds one object, as RAVEL's do."""
    path = Path(config.source)
    if path.suffix.lower() == ".json" and path.is_file():
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError:  # one object per line
            content = None
        if isinstance(content, dict):
            return (row for name, values in content.items() for row in rows_of(name, values))
    return read_rows(config.dataset, key.get("revision"))

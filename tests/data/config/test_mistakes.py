"""Every mistake that a config can contain is told in a sentence of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic_core.core_schema import ErrorType

from saepipe.cli import config_class
from saepipe.data.config.base import Config
from saepipe.data.config.mistakes import SENTENCES, sentence
from saepipe.data.config.schema import nested_configs
from saepipe.data.errors import ConfigError
from saepipe.harvest.config import HarvestConfig

pytestmark = pytest.mark.quick

RAISES = {
    "any": (),
    "bool": ("bool_type", "bool_parsing"),
    "dict": ("dict_type", "too_short", "too_long", "invalid_key"),
    "float": ("float_type", "float_parsing", "finite_number"),
    "int": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "is-instance": ("is_instance_of",),
    "lax-or-strict": ("path_type",),
    "literal": ("literal_error",),
    "model": ("model_type", "missing"),
    "str": ("string_type", "string_unicode"),
    "tagged-union": ("union_tag_invalid", "union_tag_not_found"),
    "tuple": ("tuple_type", "too_short", "too_long", "recursion_loop"),
}
"""Errors that a schema of each type raises; schemas that only hold others raise none of their own."""
BOUNDS = {"gt": "greater_than", "ge": "greater_than_equal", "lt": "less_than", "le": "less_than_equal"}
HOLDERS = {
    "default",
    "definition-ref",
    "definitions",
    "function-after",
    "function-before",
    "function-plain",
    "function-wrap",
    "json-or-python",
    "model-field",
    "model-fields",
    "no-info",
    "nullable",
    "union",
    "with-info",
}


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every core schema within one."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        yield from (found for key, inner in value.items() if key not in ("metadata", "cls") for found in schemas(inner))
    elif isinstance(value, list | tuple):
        yield from (found for inner in value for found in schemas(inner))


def test_every_error_that_a_schema_can_raise_has_a_sentence() -> None:
    configs: dict[type[Config], None] = {}
    for stage in ("harvest", "train", "evaluate", "validate"):
        nested_configs(config_class(stage), configs)
    found = [schema for config in configs for schema in schemas(config.__pydantic_core_schema__)]
    types = {schema["type"] for schema in found} - HOLDERS
    assert len(configs) > 30
    assert types <= RAISES.keys()
    raised = {error for kind in types for error in RAISES[kind]}
    raised |= {error for key, error in BOUNDS.items() if any(key in schema for schema in found)}
    assert raised <= SENTENCES.keys()


def test_sentences_are_ours_and_fill_in_every_error() -> None:
    bounds = {"gt": 1, "ge": 1, "lt": 1, "le": 1, "min_length": 1, "max_length": 2, "actual_length": 3}
    context = {**bounds, "expected": "'a' or 'b'", "expected_tags": "'a', 'b'"}
    kinds = {*get_args(ErrorType), "path_type"} - {"value_error", "assertion_error"}
    assert SENTENCES.keys() <= kinds
    for kind in kinds:
        assert "{" not in sentence(kind, context)
        assert "should" not in sentence(kind, context)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"hooks": []}, "hooks: must have at least 1 entry, not 0"),
        ({"batch_size": 0}, "batch_size = 0: must be `auto`, or a whole number from 1 to 65,536"),
        ({"batch_size": "many"}, "batch_size = 'many': must be `auto`, or a whole number from 1 to 65,536"),
        ({"num_tokens": "many"}, "num_tokens = 'many': must be a whole number, such as 300 or 10M"),
        ({"context_size": 0}, "context_size = 0: must be at least 2"),
        ({"codec": "zip"}, "codec = 'zip': must be 'none', 'lossless' or 'int8'"),
        ({"dataset": 5}, "dataset = 5: must be a mapping of settings"),
        ({"dataset": {"tokenised": "perhaps"}}, "dataset.tokenised = 'perhaps': must be true or false"),
    ],
)
def test_a_mistake_reads_like_a_sentence(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        HarvestConfig.parse(settings)
    assert told in str(error.value)

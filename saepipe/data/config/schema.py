"""JSON Schema of a config, so that an editor completes its keys and marks what is wrong.

    # yaml-language-server: $schema=train.json

It accepts what `Config.parse` accepts, and refuses wrong keys, names and types. Checks that compare several keys are
made when the config is read.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from saepipe.data.config.base import Config, config_classes, parse_count
from saepipe.data.config.component import Component, import_members

WRITTEN_COUNT = {"type": "string", "pattern": r"^\s*([\d_]*\.?\d+[kMB]|[\d.]+[eE]\+?\d+)\s*$"}
"""`10M`, `1.5B`, and `1e6`, which is text in YAML 1.1."""


def json_schema(config: type[Config]) -> dict[str, Any]:
    """Of `TrainConfig` and the like. Members of families are those of the package and the plugins imported so far."""
    within = _within(config, {})
    refs, whole = models_json_schema([(one, "validation") for one in within], schema_generator=_Plain)
    definitions = whole["$defs"]
    keys = {one: refs[one, "validation"]["$ref"].rsplit("/", 1)[-1] for one in within}
    for one, key in keys.items():
        if _is_family(one):
            definitions[key] = {"oneOf": [refs[member, "validation"] for member in _members(one)]}
            continue
        for name, text in _docstrings(one).items():
            definitions[key]["properties"][name].setdefault("description", text)
        if issubclass(one, Component):  # its name tells a member from the others
            definitions[key]["required"] = ["name", *definitions[key].get("required", [])]
    stage = config.__name__.removesuffix("Config").lower()
    head = {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:saepipe:{stage}"}
    return _bounded({**head, **definitions.pop(keys[config]), "title": f"saepipe {stage}", "$defs": definitions})


class _Plain(GenerateJsonSchema):
    """Without titles (`Log Every` says no more than `log_every`), and with counts as people write them."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        plain = super().function_before_schema(schema)
        return {"anyOf": [plain, WRITTEN_COUNT]} if schema["function"]["function"] is parse_count else plain


BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _bounded(schema: Any) -> Any:
    """Bounds of a count under JSON Schema's names: pydantic writes its own there."""
    if isinstance(schema, dict):
        return {BOUNDS.get(key, key): _bounded(value) for key, value in schema.items()}
    return [_bounded(item) for item in schema] if isinstance(schema, list) else schema


def _within(config: type[Config], seen: dict[type[Config], None]) -> dict[type[Config], None]:
    """`seen`, with a config and those in its fields, at any depth; where a family stands, its members too."""
    if config not in seen:
        seen[config] = None
        inner = [one for field in config.model_fields.values() for one in config_classes(field.annotation)]
        for one in [*inner, *_members(config)]:
            _within(one, seen)
    return seen


def _is_family(config: type[Config]) -> bool:
    return Component in config.__bases__


def _members(config: Any) -> list[type[Config]]:
    """A family's, in the order of their names; other configs have none."""
    if not _is_family(config):
        return []
    import_members(config.package)
    return [member for _, member in sorted(config.members.items())]


def _docstrings(config: type[Config]) -> dict[str, str]:
    """The text below each field: pydantic reads it too, but of every class when it is made, which takes its time."""
    found: dict[str, str] = {}
    for cls in [cls for cls in reversed(config.__mro__) if issubclass(cls, Config)]:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        for field, text in pairwise(getattr(body, "body", [])):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = inspect.cleandoc(str(ast.literal_eval(text.value)))
    return {name: text for name, text in found.items() if name in config.model_fields}

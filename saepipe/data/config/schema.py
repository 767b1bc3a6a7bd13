"""JSON Schema of a config, with which an editor completes keys and marks mistakes.

    # yaml-language-server: $schema=train.json

The schema accepts everything that `Config.parse` accepts, and rejects wrong keys, names and types. Checks that compare
several keys run only when the config is read.
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

COUNT_TEXT = {"type": "string", "pattern": r"^\s*([\d_]*\.?\d+[kMB]|[\d.]+[eE]\+?\d+)\s*$"}
"""`10M`, `1.5B`, and `1e6`, which is text in YAML 1.1."""


def json_schema(root: type[Config]) -> dict[str, Any]:
    """Schema of a stage's config. Families contain the members in the package and in plugins imported so far."""
    configs = nested_configs(root, {})
    refs, schema = models_json_schema([(config, "validation") for config in configs], schema_generator=_Generator)
    definitions = schema["$defs"]
    keys = {config: refs[config, "validation"]["$ref"].rsplit("/", 1)[-1] for config in configs}
    for config, key in keys.items():
        if _is_family(config):
            definitions[key] = {"oneOf": [refs[member, "validation"] for member in _members(config)]}
            continue
        for name, text in _docstrings(config).items():
            definitions[key]["properties"][name].setdefault("description", text)
        if issubclass(config, Component):  # the name distinguishes a member from the others
            definitions[key]["required"] = ["name", *definitions[key].get("required", [])]
    stage = root.__name__.removesuffix("Config").lower()
    head = {"$schema": GenerateJsonSchema.schema_dialect, "$id": f"urn:saepipe:{stage}"}
    return _rename_bounds({**head, **definitions.pop(keys[root]), "title": f"saepipe {stage}", "$defs": definitions})


class _Generator(GenerateJsonSchema):
    """Omits titles (`Log Every` says no more than `log_every`), and accepts counts like `10M`."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        plain = super().function_before_schema(schema)
        return {"anyOf": [plain, COUNT_TEXT]} if schema["function"]["function"] is parse_count else plain


BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _rename_bounds(schema: Any) -> Any:
    """Renames the bounds of counts, for which pydantic keeps its own names, to those of JSON Schema."""
    if isinstance(schema, dict):
        return {BOUNDS.get(key, key): _rename_bounds(value) for key, value in schema.items()}
    return [_rename_bounds(item) for item in schema] if isinstance(schema, list) else schema


def nested_configs(config: type[Config], configs: dict[type[Config], None]) -> dict[type[Config], None]:
    """Adds a config, those in its fields at any depth, and the members of each family, to `configs`; returns it."""
    if config not in configs:
        configs[config] = None
        inner = [cls for field in config.model_fields.values() for cls in config_classes(field.annotation)]
        for cls in [*inner, *_members(config)]:
            nested_configs(cls, configs)
    return configs


def _is_family(config: type[Config]) -> bool:
    return Component in config.__bases__


def _members(config: Any) -> list[type[Config]]:
    """The members of a family, sorted by name; empty for other configs."""
    if not _is_family(config):
        return []
    import_members(config.package)
    return [member for _, member in sorted(config.members.items())]


def _docstrings(config: type[Config]) -> dict[str, str]:
    """The docstring below each field. Pydantic could read it too, but slowly, whenever any class is created."""
    texts: dict[str, str] = {}
    for cls in [cls for cls in reversed(config.__mro__) if issubclass(cls, Config)]:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        for field, text in pairwise(getattr(body, "body", [])):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                texts[field.target.id] = inspect.cleandoc(str(ast.literal_eval(text.value)))
    return {name: text for name, text in texts.items() if name in config.model_fields}

"""Sentences for the mistakes that pydantic finds in a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SENTENCES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys to values",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number, such as 300 or 10M",
    "int_parsing_size": "must be a smaller whole number",
    "int_type": "must be a whole number",
    "invalid_key": "must have text as keys",
    "is_instance_of": "must be of another kind",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "mapping_type": "must be a mapping of keys to values",
    "missing": "is missing",
    "model_attributes_type": "must be a mapping of settings",
    "model_type": "must be a mapping of settings",
    "none_required": "must be null",
    "path_type": "must be a path",
    "recursion_loop": "must not contain itself",
    "string_type": "must be text",
    "string_unicode": "must be text",
    "too_long": "must have at most {max_length}, not {actual_length}",
    "too_short": "must have at least {min_length}, not {actual_length}",
    "tuple_type": "must be a list",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "must be of another kind",
}
"""Sentence after the key and its value, by pydantic's type of the error; fields are those of the error's context."""


def sentence(kind: str, context: Mapping[str, Any]) -> str:
    """Returns what is wrong with a value, without the words of pydantic."""
    if kind in ("value_error", "assertion_error"):  # of a validator of ours
        return str(context["error"])
    named = {key: _counted(value) if key in ("min_length", "max_length") else value for key, value in context.items()}
    return SENTENCES.get(kind, "is not valid here").format_map(named)


def _counted(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"

"""YAML text read as plain data, within limits that a config never needs to exceed.

Plain data are mappings with text as keys, lists, text, numbers, true, false and null. A date is text. Other tags are
refused, and so is text that is deep, long, or short but long once its aliases are written out.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

LONGEST = 1 << 20
"""Characters of a file or an override."""
MOST_VALUES = 20_000
"""Values, with every alias written out."""
DEEPEST = 40
"""Levels of nesting."""
MOST_DIGITS = 40
"""Characters of a whole number."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
_INT, _MERGE = f"{_TAG}int", f"{_TAG}merge"


class _PlainLoader(yaml.SafeLoader):
    """Composes and constructs plain data; every refusal is a YAMLError with its line."""

    def __init__(self, text: str, name: str = "") -> None:
        super().__init__(text)
        self.name = name
        self._depth = self._num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        self._num_nodes += 1
        if self._depth > DEEPEST or self._num_nodes > MOST_VALUES:
            problem = f"more than {DEEPEST} levels" if self._depth > DEEPEST else f"more than {MOST_VALUES:,} values"
            raise ComposerError(None, None, problem, self.get_mark())
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag == _INT and len(node.value) > MOST_DIGITS:
            raise _refusal(f"a whole number of {len(node.value):,} digits", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError):
            kind = node.tag.removeprefix(_TAG)
            raise _refusal(f"{str(node.value)[:40]!r} is not of the kind {kind!r} that it is tagged as", node) from None


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN or tag == _MERGE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.yaml_constructors = {
    tag: function for tag, function in yaml.SafeLoader.yaml_constructors.items() if tag in _PLAIN or tag is None
}


def compose(text: str, name: str) -> yaml.Node | None:
    """Returns the root of a YAML document called `name`, whose aliases are known to be finite; None if it is empty.

    Raises:
        yaml.YAMLError: if it is not YAML, exceeds a limit, or has a key that is not text.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"{len(text):,} characters, more than {LONGEST:,}")
    loader = _PlainLoader(text, name)
    try:
        root: yaml.Node | None = loader.get_single_node()
    finally:
        loader.dispose()
    if root is not None and _size(root, {}) > MOST_VALUES:
        raise _refusal(f"its aliases stand for more than {MOST_VALUES:,} values", root)
    return root


def construct(root: yaml.Node | None) -> Any:
    """Returns the plain data of a document that `compose` returned; raises yaml.YAMLError if a value is malformed."""
    if root is None:
        return None
    loader = _PlainLoader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Returns the number of values below and including a node with its aliases written out; checks every key."""
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise _refusal("an alias stands for the value that contains it", node)
        return sizes[id(node)]
    sizes[id(node)] = 0  # begun
    children = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", _MERGE):
                raise _refusal("a key that is not text; put it in quotes", key)
        children = [value for _, value in node.value]
    sizes[id(node)] = 1 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def _refusal(problem: str, node: yaml.Node) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)

"""What a model and its tokenizer do, as plain data that is stored in a cache and compared whenever both meet again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from saepipe.data.config.base import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

PROBE = (
    "The CAFÉ's naïve façade\tcost $1,234.50 in 2019.\n\n  two  spaces, don't; x_1 != y-2 (ﬁne) "
    "e\u0301 Straße ŁÓDŹ Ωmega Привет שלום नमस्ते 東京タワー 한국어 🙂👩‍👩‍👧 https://a.b/c?d=e#f\r\n end \u00a0\u200b."
)
"""Case, accents (also decomposed), ligatures, digits, whitespace, punctuation, several scripts and emoji."""

_NOT_BEHAVIOUR = ("_name_or_path", "transformers_version", "_commit_hash")
"""Keys of a model's config that say where it came from."""

_PACKAGES = ("transformers", "tokenizers")
"""Packages whose version may change how a config or a tokenizer is written down."""


@dataclass(frozen=True)
class Comparison:
    """The model of a cache beside the model at hand: one sentence per difference."""

    changed: tuple[str, ...]
    """makes it another model"""
    accepted: tuple[str, ...]
    """explained by another version of a package, or not comparable because the cache is older than the check"""


def describe_config(config: PreTrainedConfig) -> dict[str, Any]:
    """Returns the resolved config as plain data, with the attention in use, without paths and versions."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return {**_without_origin(plain), "attention": config._attn_implementation}


def describe_tokenizer(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Returns digests: the tokenizer's whole definition, its chat template, and the ids of a probe text."""
    return {
        "definition": fingerprint(_definition(tokenizer)),
        "chat_template": fingerprint(tokenizer.chat_template),
        "probe": fingerprint([probe_ids(tokenizer, special=special) for special in (False, True)]),
    }


def probe_ids(tokenizer: PreTrainedTokenizerBase, *, special: bool) -> list[int]:
    """Returns the ids of the probe text, with or without special tokens."""
    return [int(token) for token in tokenizer(PROBE, add_special_tokens=special)["input_ids"]]


def compare(
    stored: Mapping[str, Any],
    current: Mapping[str, Any],
    versions: tuple[Mapping[str, str], Mapping[str, str]],
    *,
    leave_out: Collection[str] = (),
) -> Comparison:
    """Compares two identities of a model.

    Args:
        stored: the identity in a cache; one made by an earlier version has fewer keys.
        current: the identity of the loaded model.
        versions: versions of packages when the cache was begun, and now. If they are equal, every key counts.
        leave_out: keys that may differ, such as `revision` or `config.dtype`.
    """
    upgrades = [f"{name} {versions[0].get(name)} -> {versions[1].get(name)}" for name in _PACKAGES]
    upgrades = [text for text in upgrades if len(set(text.split()[1::2])) > 1]
    older = sorted(current.keys() - stored.keys() - set(leave_out))
    changed: list[str] = []
    accepted = [f"the cache was made before {', '.join(older)} were recorded: not compared"] if older else []
    for key, before, after in _differences(stored, {key: current[key] for key in current.keys() & stored.keys()}):
        if key in leave_out:
            continue
        same_ids = all(stored.get(name) == current.get(name) for name in ("tokenizer", "probe"))
        explained = (key == "definition" and same_ids) or (key.startswith("config.") and _ABSENT in (before, after))
        (accepted if upgrades and explained else changed).append(f"{_NAMES.get(key, key)}: {before} -> {after}")
    if upgrades and not changed:
        accepted.insert(0, f"{', '.join(upgrades)}; the model and the tokenizer do the same")
    return Comparison(tuple(changed), tuple(accepted))


_NAMES = {
    "definition": "the tokenizer's definition",
    "tokenizer": "the tokenizer's vocabulary",
    "probe": "the tokenizer's ids of a probe text",
}
"""Names of the keys for people, where the key does not say what it is."""
_ABSENT = "(absent)"


def _differences(stored: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yields (key, stored, current) of each leaf that differs; lists are leaves."""
    before, after = dict(_leaves(stored)), dict(_leaves(current))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield key, before.get(key, _ABSENT), after.get(key, _ABSENT)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, json.dumps(value)


def _without_origin(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_origin(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _NOT_BEHAVIOUR
    }


def _definition(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The backend's own serialisation; for a tokenizer in Python, digests of the files that it was read from."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        plain: dict[str, Any] = json.loads(backend.to_str())
        return {key: value for key, value in plain.items() if key not in ("truncation", "padding")}  # state of a call
    files = {name: getattr(tokenizer, name, None) for name in tokenizer.vocab_files_names}
    existing = {name: Path(path) for name, path in files.items() if path and Path(path).is_file()}
    return {name: xxhash.xxh3_128_hexdigest(path.read_bytes()) for name, path in existing.items()}

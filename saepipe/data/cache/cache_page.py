"""Page about a cache, for people: a line for each thing they ask first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saepipe.data.cache.cache import Cache
from saepipe.data.terminal.display import readable, readable_bytes


def sizes(cache: Cache) -> dict[str, Any]:
    """Returns the bytes of the activations in bfloat16 and as stored, and their ratio."""
    rows = cache.num_tokens + cache.attributes["num_heldout_contexts"] * cache.attributes["context_size"]
    raw = rows * 2 * sum(cache.widths.values())
    stored = cache.activation_bytes
    return {"raw_bytes": raw, "stored_bytes": stored, "ratio": round(raw / stored, 3)}


def cache_page(cache: Cache) -> dict[str, str]:
    """Returns the page's lines, by heading."""
    attributes, config = cache.attributes, cache.attributes["config"]
    context, held = attributes["context_size"], attributes["num_heldout_contexts"]
    size, codec = sizes(cache), cache.rows(cache.hooks[0]).array.profile
    stored, raw = readable_bytes(size["stored_bytes"]), readable_bytes(size["raw_bytes"])
    asked = config.get("num_tokens", cache.num_tokens)
    short = f" of the {asked:,} asked for" if asked > cache.num_tokens else ""
    return {
        "cache": str(cache.path),
        "fingerprint": cache.fingerprint[:16],
        "model": _model(attributes["model"], config.get("model", {})),
        "text": _text(attributes.get("dataset", {}), config.get("dataset", {})),
        "hooks": readable(list(cache.hooks)),
        "tokens": f"{cache.num_tokens:,}{short}, in contexts of {context}, {_opening(attributes, config)}",
        "held out": f"{held:,} contexts, {held * context:,} positions" if held else "nothing: it cannot be evaluated",
        "d_in": ", ".join(map(str, dict.fromkeys(cache.widths.values()))),
        "stored": f"{stored}, {codec}: {raw} of bfloat16 made {size['ratio']:.2f} times smaller",
        "made by": _maker(attributes.get("versions", {})),
        "more": "--format json",
    }


def _opening(attributes: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if attributes.get("bos") == "none":
        return "without BOS"
    return f"each starting with {config.get('bos_token', 'BOS')}"


def _model(model: dict[str, Any], config: dict[str, Any]) -> str:
    parts = [model["id"], *(str(part) for part in (model.get("class"), config.get("dtype")) if part)]
    return f"{', '.join(parts)}{f', revision {revision}' if (revision := model.get('revision')) else ''}"


def _text(dataset: dict[str, Any], config: dict[str, Any]) -> str:
    columns = config.get("columns") or []
    parts = [str(dataset.get("source", "unknown"))]
    parts += [f"columns {readable(columns)}"] if columns and parts[0] != "toy" else []
    parts += [f"revision {dataset['revision']}"] if dataset.get("revision") else []
    return ", ".join(parts)


def _maker(versions: dict[str, str]) -> str:
    shown = {name: versions[name] for name in ("saepipe", "torch", "transformers") if name in versions}
    names = ", ".join(f"{name} {version}" for name, version in shown.items())
    return f"{names or 'unknown'}{f', commit {commit}' if (commit := versions.get('commit')) else ''}"

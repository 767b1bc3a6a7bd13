"""Settings of an imported run, its `config.yaml`."""

from __future__ import annotations

from typing import Any, Literal

from saepipe.data.config.base import Config, fingerprint
from saepipe.data.config.bounds import Seed
from saepipe.data.config.place import Place

Library = Literal["saelens", "dictionary_learning", "sparsify", "gemma-scope", "llama-scope", "qwen-scope"]


class ImportConfig(Config):
    """Where an imported SAE comes from and where it applies."""

    imported: Library
    path: Place
    files: dict[str, str]
    """SHA-256 of each source file"""
    name: str
    seed: Seed | None
    """seed of its training; None if unknown"""
    sae: dict[str, Any]
    """name and d_sae; also k for topk"""
    cache: Place
    hook: str
    target: str | None = None
    """hook that a transcoder reconstructs"""
    said: dict[str, Any]
    """the source's own config"""
    activation_norm: float | None = None
    """mean norm of the activations that it was trained on, if it was given because the source does not say it"""

    def identity(self) -> dict[str, Any]:
        """Returns what makes the run what it is: its source's content, without the path, its hook, and a given norm."""
        plain = self.to_dict()
        given = [key for key in ("target", "activation_norm") if plain[key] is not None]
        return {key: plain[key] for key in ("imported", "files", "name", "seed", "sae", "hook", *given)}

    def run_id(self, cache_fingerprint: str) -> str:
        return fingerprint({"cache": cache_fingerprint, "config": self.identity()})

"""Import of SAEs that other libraries trained: they become runs, so that they are evaluated beside our own.

`encode` and `decode` of the run equal those of the library up to float32 rounding. The source is only read.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.config.slug import slug
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.data.remote.places import folder_of, read_from, writer_lock
from saepipe.train.formats import (
    dictionary_learning,
    gemma_scope,
    llama_scope,
    pickle_format,
    qwen_scope,
    saelens,
    sparsify,
)
from saepipe.train.formats.rewrites import decoder_norms
from saepipe.train.formats.source import Source, short_name
from saepipe.train.rundir import run_files
from saepipe.train.rundir.import_config import ImportConfig, Library

READERS: dict[Library, Callable[..., Source]] = {
    "saelens": saelens.source,
    "dictionary_learning": dictionary_learning.source,
    "sparsify": sparsify.source,
    "gemma-scope": gemma_scope.source,
    "llama-scope": llama_scope.source,
    "qwen-scope": qwen_scope.source,
}
assert READERS.keys() == set(get_args(Library))

PICKLES: dict[Library, Callable[[Path], Path]] = {
    "dictionary_learning": lambda path: path / dictionary_learning.WEIGHTS,
    "qwen-scope": qwen_scope.weights_file,
}
"""Libraries that save in torch's pickle format, and their file in a given path."""

TAKES: dict[str, Library] = {"k": "qwen-scope", "activation_norm": "llama-scope"}
"""Facts that only one library's files can lack."""


def import_sae(
    path: Path,
    library: Library,
    cache: Path,
    out: Path,
    *,
    hook: str | None = None,
    target: str | None = None,
    name: str | None = None,
    seed: int | None = None,
    model: str | None = None,
    k: int | None = None,
    activation_norm: float | None = None,
    allow_pickle_format: bool = False,
) -> Path:
    """Makes a finished run from another library's SAE; if `out` already holds that run, it is left as it is.

    Args:
        path: file or folder that the library wrote, or a folder's address in a bucket.
        library: library that wrote it.
        cache: cache of the model and hook that the SAE was trained on; the run is evaluated on its held-out part.
        out: the run's folder.
        hook: hook that it was trained at, if the source does not say.
        target: hook that it reconstructs, if it is a transcoder and the source does not say.
        name: name of the variant; by default the source's own.
        seed: seed of its training, if the source does not say.
        model: the source's name for the cache's model, if the two names differ.
        k: active latents per token, if the source does not say; Qwen-Scope's only.
        activation_norm: mean norm of the activations that it was trained on, if the source does not say; Llama Scope's
            only.
        allow_pickle_format: read a file in torch's pickle format, in a process of its own; dictionary_learning's and
            Qwen-Scope's only.

    Returns:
        `out`.

    Raises:
        ConfigError: if the source is not in the library's format, or contradicts an argument or the cache.
        CorruptDataError: if a file of the source cannot be read, or a parameter is not finite.
    """
    facts = {name: value for name, value in (("k", k), ("activation_norm", activation_norm)) if value is not None}
    path = read_from(path)
    source, opened = read_source(path, library, allow_pickle_format, facts), Cache.open(cache)
    check_finite(source, path)
    check_model(source, opened, path, model)
    config = ImportConfig.parse(
        {
            "imported": library,
            "path": path.absolute(),
            "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in source.files},
            "name": slug(name or source.name),
            "seed": _resolve_seed(source, path, seed),
            "sae": {key: value for key, value in source.sae.to_dict().items() if key in ("name", "d_sae", "k")},
            "cache": folder_of(cache).absolute(),
            "hook": _resolve_hook(source, opened, path, hook),
            "target": _resolve_target(source, opened, path, target),
            "said": source.config,
            "activation_norm": activation_norm,
        },
        source=str(path),
    )
    out = folder_of(out)
    with writer_lock(out):
        _refuse_other_run(out, config.run_id(opened.fingerprint))
        if not artifact.is_committed(out):
            _write(out, source, config, opened)
    return out


def read_source(
    path: Path, library: Library, allow_pickle_format: bool = False, facts: Mapping[str, Any] | None = None
) -> Source:
    """Reads an SAE with its library's reader, given what its files do not say; raises as `import_sae` does."""
    facts = facts or {}
    for name in facts:
        if TAKES[name] != library:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is for {TAKES[name]}; {library} says it itself", hint=f"leave out {option}")
    if library not in PICKLES or not allow_pickle_format:
        return READERS[library](path, **facts)
    with tempfile.TemporaryDirectory(prefix="saepipe-") as folder:
        weights = pickle_format.convert(PICKLES[library](path), Path(folder) / "weights.safetensors")
        return READERS[library](path, weights=weights, **facts)


def check_finite(source: Source, path: Path) -> None:
    for name, value in source.params.items():
        if not torch.isfinite(value).all():
            raise CorruptDataError(f"{path}: {name} holds NaN or Inf")


def check_model(source: Source, cache: Cache, path: Path, model: str | None) -> None:
    """Raises ConfigError unless the source's model has the name of the cache's, by its last part."""
    ours = str(cache.attributes["model"]["id"])
    if source.model and short_name(source.model) not in (short_name(ours), short_name(model or ours)):
        raise ConfigError(
            f"{path} was trained on {source.model}, but {cache.path} was made with {ours}",
            hint=f"use a cache of that model, or --model {source.model} if both names mean the same model",
        )


def _resolve_hook(source: Source, cache: Cache, path: Path, given: str | None) -> str:
    """Returns the given hook, the source's, or the output of its layer; they must agree, and fit the cache."""
    recorded = source.hook or (f"blocks.{source.layer}.hook_resid_post" if source.layer is not None else None)
    hook = given or recorded
    if hook is None:
        raise ConfigError(
            f"{path} does not say which hook it was trained at", hint="add --hook blocks.L.hook_resid_post"
        )
    other_layer = source.layer is not None and not hook.startswith(f"blocks.{source.layer}.")
    if hook != (source.hook or hook) or other_layer:
        raise ConfigError(f"{path} was trained at {recorded}, not at {hook}", hint="leave out --hook")
    if hook not in cache.hooks:
        raise ConfigError(f"{path} was trained at {hook}, but {cache.path} has only {', '.join(cache.hooks)}")
    if source.d_in != (d_in := cache.widths[hook]):
        raise ConfigError(f"{path} has d_in {source.d_in}, but {cache.path} has {d_in}", hint="use another cache")
    return hook


def _resolve_target(source: Source, cache: Cache, path: Path, given: str | None) -> str | None:
    """Returns the hook that a transcoder reconstructs, None for an SAE; it must fit the cache."""
    if not source.is_transcoder:
        if given is not None:
            raise ConfigError(f"{path} holds an SAE, which reconstructs its own input", hint="leave out --target")
        return None
    target = given or source.target
    if target is None:
        hint = "add --target blocks.L.hook_mlp_out"
        raise ConfigError(f"{path} does not say which hook the transcoder reconstructs", hint=hint)
    if source.target not in (None, target):
        raise ConfigError(f"{path} reconstructs {source.target}, not {target}", hint="leave out --target")
    if target not in cache.hooks:
        raise ConfigError(f"{path} reconstructs {target}, but {cache.path} has only {', '.join(cache.hooks)}")
    if source.d_out != (d_out := cache.widths[target]):
        raise ConfigError(
            f"{path} has d_out {source.d_out}, but {cache.path} has {d_out} at {target}", hint="use another cache"
        )
    return target


def _resolve_seed(source: Source, path: Path, given: int | None) -> int | None:
    if given is not None and source.seed not in (None, given):
        raise ConfigError(f"{path} was trained with seed {source.seed}, not {given}", hint="leave out --seed")
    return source.seed if given is None else given


def _refuse_other_run(out: Path, run_id: str) -> None:
    lines = artifact.read_manifest(out)
    if (out / run_files.CONFIG).exists() and not (lines and lines[0].get("run_id") == run_id):
        raise ConfigError(f"{out} holds another run", hint="choose another --out or remove this folder")


def _write(out: Path, source: Source, config: ImportConfig, cache: Cache) -> None:
    header = {
        "kind": "run",
        "run_id": config.run_id(cache.fingerprint),
        "cache": cache.fingerprint,
        "hook": config.hook,
        "variant": config.name,
        "seed": config.seed or 0,
        "imported": config.imported,
        "imported_by": dict(artifact.provenance()),
    }
    artifact.write_file(out / run_files.CONFIG, config.to_yaml().encode())
    artifact.rewrite_manifest(out, [header])
    metadata = {
        "hook_name": config.hook,
        **({"hook_name_out": config.target} if config.target else {}),
        "model_name": cache.attributes["model"]["id"],
        "context_size": cache.attributes["context_size"],
        "saepipe": {**config.identity(), "run_id": header["run_id"], "cache": cache.fingerprint},
    }
    names = saelens.write(out / run_files.SAE, source.sae, source.params, metadata)
    Health(audit={"imported": config.imported, "decoder_norms": _norm_range(source)}).write(out)
    files = artifact.digest_files(
        out, [run_files.CONFIG, run_files.HEALTH, *(f"{run_files.SAE}/{name}" for name in names)]
    )
    artifact.rewrite_manifest(out, [header, {"files": files}])
    artifact.commit(out)


def _norm_range(source: Source) -> dict[str, float]:
    """Returns the smallest and largest norm of a decoder row; activations scale inversely with their row."""
    norms = decoder_norms(source.params)
    return {"min": float(norms.min()), "max": float(norms.max())}

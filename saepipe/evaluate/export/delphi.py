"""A run's activations as delphi caches latents, for its explainers and scorers (EleutherAI/delphi, eai-delphi 0.1.3).

    OUT/layers.19/                       OUT is what delphi calls `raw_dir`, its latents folder; the hook by the name of
                                         the Hugging Face module whose output it is
      <start>_<end>.safetensors          of latents start to end, both included:
        locations    uint16 or uint32 (num, 3)   context, position, latent - start
        activations  float16 (num,)
        tokens       int32 (num_contexts, context_size)   the same in every file, as there
      config.json                        delphi's CacheConfig and `model_name`; `saepipe` says where all is from

As delphi/latents/cache.py has it (`LatentCache.save_splits`): the bounds are those of
linspace(0, d_sae, num_splits + 1), only activations above 1e-5 are kept, and uint16 is used where contexts and latents
fit. What delphi/latents/loader.py counts on (`load_data_per_latent`; `pool_max_activation_windows` in constructors.py):
of each latent, the contexts in order. A dead latent stands nowhere, and is not explained.

delphi wants every activation, also to know where a latent is off; the feature store keeps only examples. So this is a
pass of its own over the cache, with the SAE and without the model. By default it takes the training rows: delphi
explains a latent from 200 windows on, more than most have in a held-out part. Their last context is left out, since
the cache may end within it. Special tokens are in `tokens`, without activations: where delphi takes BOS out of its
text (`filter_bos`), we leave the SAE off at it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from saepipe.data.cache.cache import SPLITS, Cache, Split
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.atomic_folder import whole_folder
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import Chunk, chunks
from saepipe.evaluate.model.run_cache import cache_of
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.hooks import HookPoint
from saepipe.train.rundir.load import Run, open_run

_LEAST = 1e-5
"""delphi's own threshold"""


def export_delphi(
    run: Run | Path | str,
    out: Path,
    *,
    split: Split = "train",
    num_contexts: int | None = None,
    num_splits: int = 5,
    cache: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Path:
    """Writes delphi's latent cache of a run; the same export again changes nothing.

    Args:
        run: finished, trained here or imported.
        out: a new folder, or an empty one.
        split: which contexts of the run's cache.
        num_contexts: the first so many; all that are whole where not given.
        num_splits: files; one is held in memory at a time.
        cache: where the run's cache is, if not where it was.
        device: of the SAE.
        progress: told of the tokens.

    Returns:
        `out`.

    Raises:
        ConfigError: if the cache is not there or another one, has too few contexts, or `out` holds something else.
        CorruptDataError: if run or cache is damaged, or an activation does not fit into float16.
    """
    if split not in SPLITS:
        raise ConfigError(f"a cache has no split {split!r}", hint=" or ".join(SPLITS))
    opened = run if isinstance(run, Run) else open_run(run)
    source = cache_of(opened, Path(cache) if cache else None)
    subject = Subject.load(opened, pick_device(device))
    if not 1 <= num_splits <= subject.sae.d_sae:
        raise ConfigError(f"{num_splits} files for {subject.sae.d_sae} latents", hint="one latent a file, or more")
    tokens = _tokens(source, split, num_contexts)
    progress = progress or Silent()
    progress.start("delphi's latent cache", tokens.size, "tokens")
    with whole_folder(out) as folder:
        module = folder / module_name(opened.hook)
        module.mkdir()
        splits = _splits(module, tokens, subject.sae.d_sae, num_splits)
        for chunk in chunks(source, opened.hook, Features(split=split, num_tokens=None)):
            end = int(np.searchsorted(chunk.context, len(tokens)))
            _add_active(subject, Chunk(chunk.x[:end], chunk.context[:end], chunk.position[:end]), splits)
            progress.advance(end)
            if end < len(chunk.x):
                break
        for part in splits:
            part.write(tokens)
        artifact.write_json(module / "config.json", _config(opened, source, split, tokens, num_splits))
    progress.finish()
    return out


def module_name(hook: str) -> str:
    """`layers.19` of `blocks.19.hook_resid_post`. What enters the first layer keeps our name."""
    below = HookPoint.parse(hook).num_layers_below
    return f"layers.{below - 1}" if below else hook


@dataclass(frozen=True)
class _Split:
    """One file: latents from `start` to before `stop`. Until all is known it is two, which grow."""

    folder: Path
    start: int
    stop: int
    dtype: np.dtype[Any]  # of locations

    def add(self, context: np.ndarray, position: np.ndarray, latent: np.ndarray, act: np.ndarray) -> None:
        """Those of its latents, of more activations in the order of the text, (num,) each."""
        here = (latent >= self.start) & (latent < self.stop)
        place = np.stack([context[here], position[here], latent[here] - self.start], axis=1)
        for path, values in zip(self._growing, (place.astype(self.dtype), act[here]), strict=True):
            with path.open("ab") as file:
                file.write(values.tobytes())

    def write(self, tokens: np.ndarray) -> None:
        places, acts = self._growing
        arrays = {
            "locations": np.fromfile(places, self.dtype).reshape(-1, 3),
            "activations": np.fromfile(acts, np.float16),
            "tokens": tokens,
        }
        save_file(arrays, self.folder / f"{self.start}_{self.stop - 1}.safetensors")
        for path in self._growing:
            path.unlink()

    @property
    def _growing(self) -> tuple[Path, Path]:
        return self.folder / f"{self.start}.locations", self.folder / f"{self.start}.activations"


def _splits(folder: Path, tokens: np.ndarray, d_sae: int, num_splits: int) -> list[_Split]:
    bounds: list[int] = torch.linspace(0, d_sae, num_splits + 1).long().tolist()
    largest = max(*tokens.shape, *np.diff(bounds))
    dtype = np.dtype(np.uint16 if largest <= 2**16 else np.uint32)
    return [_Split(folder, start, stop, dtype) for start, stop in pairwise(bounds)]


def _add_active(subject: Subject, chunk: Chunk, splits: Sequence[_Split]) -> None:
    first = 0
    for x in torch.split(chunk.x, rows_at_a_time(subject.sae.d_sae)):
        acts = subject.encode(x)
        row, latent = (acts.abs() > _LEAST).nonzero(as_tuple=True)
        act = acts[row, latent].half()
        if not act.isfinite().all():
            raise CorruptDataError(f"an activation of {float(acts.abs().max()):g} does not fit into delphi's float16")
        at, found = first + row.cpu().numpy(), (latent.cpu().numpy(), act.cpu().numpy())
        for split in splits:
            split.add(chunk.context[at], chunk.position[at], *found)
        first += len(x)


def _tokens(cache: Cache, split: Split, wanted: int | None) -> np.ndarray:
    """(num_contexts, context_size) int32: contexts whose rows are all stored. The training rows may end within one."""
    if split == "heldout":
        contexts = cache.heldout.contexts
    else:
        context = MappedRows(cache.path, "context_id", cache.files)
        last = int(context.read(0, context.num_rows).max())
        contexts = MappedRows(cache.path, "contexts", cache.files).read(0, last)
    if not len(contexts):
        raise ConfigError(f"{cache.path} has no whole context in {split}", hint="harvest more tokens")
    if wanted is not None and not 1 <= wanted <= len(contexts):
        raise ConfigError(f"{wanted:,} contexts, of {len(contexts):,} in {split}", hint="fewer contexts")
    return np.ascontiguousarray(contexts[:wanted], np.int32)


def _config(run: Run, cache: Cache, split: Split, tokens: np.ndarray, num_splits: int) -> dict[str, Any]:
    """delphi's CacheConfig, as far as it applies: our batches decide nothing. It reads `model_name` back."""
    dataset = cache.attributes["config"]["dataset"]
    return {
        "dataset_repo": dataset["source"],
        "dataset_split": dataset["split"],
        "dataset_name": dataset["subset"] or "",
        "dataset_column": " ".join(str(column) for column in dataset["columns"]),
        "cache_ctx_len": tokens.shape[1],
        "n_tokens": tokens.size,
        "n_splits": num_splits,
        "model_name": cache.attributes["model"]["id"],
        "saepipe": {
            "run": run.fingerprint,
            "variant": run.variant,
            "seed": run.seed,
            "cache": cache.fingerprint,
            "hook": run.hook,
            "split": split,
            "model_revision": cache.attributes["model"].get("revision"),
            "dataset_revision": cache.attributes["dataset"]["revision"],
        },
    }

"""A run's activations as delphi's latent cache, for its explainers and scorers (EleutherAI/delphi, eai-delphi 0.1.3).

    OUT/layers.19/                       OUT is delphi's `raw_dir`, its latents folder; the hook is named after the
                                         Hugging Face module whose output it is
      <start>_<end>.safetensors          latents start to end, both included:
        locations    uint16 or uint32 (num, 3)   context, position, latent - start
        activations  float16 (num,)
        tokens       int32 (num_contexts, context_size)   the same in every file, as in delphi
      config.json                        delphi's CacheConfig and `model_name`; `saepipe` holds the provenance

As in delphi/latents/cache.py (`LatentCache.save_splits`), the bounds are those of linspace(0, d_sae, num_splits + 1),
only activations above 1e-5 are kept, and uint16 is used if contexts and latents fit. delphi/latents/loader.py
(`load_data_per_latent`; `pool_max_activation_windows` in constructors.py) relies on the contexts of each latent being
in order. A dead latent has no entries and is not explained.

delphi needs every activation, also to know where a latent is off; the feature store keeps only examples. So this is a
separate pass over the cache, with the SAE and without the model. By default it reads the training rows: delphi
explains only latents with at least 200 windows, more than most have in a held-out part. Their last context is left
out, because the cache may end within it. Special tokens are in `tokens` but have no activations: delphi removes BOS
from its text (`filter_bos`), whereas we do not run the SAE on it.
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

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import SPLITS, Layout, Split
from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.remote.places import new_folder
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import Chunk, chunks
from saepipe.evaluate.model.run_cache import cache_of
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.harvest.hook_point import HookPoint
from saepipe.train.rundir.finished_run import Run, open_run

_MIN_ACT = 1e-5
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
    """Writes a run as delphi's latent cache; repeating the same export changes nothing.

    Args:
        run: a finished run, trained here or imported.
        out: a new folder, or an empty one.
        split: the split of the run's cache to export.
        num_contexts: number of contexts, from the first; default: all complete ones.
        num_splits: number of files; one is held in memory at a time.
        cache: path of the run's cache, if it was moved.
        device: device of the SAE.
        progress: receives the number of tokens.

    Returns:
        `out`.

    Raises:
        ConfigError: if the cache is missing or another one, has too few contexts, or `out` holds something else.
        CorruptDataError: if run or cache is damaged, or an activation does not fit into float16.
    """
    if split not in SPLITS:
        raise ConfigError(f"a cache has no split {split!r}", hint=" or ".join(SPLITS))
    opened = run if isinstance(run, Run) else open_run(run)
    opened.refuse_crosscoder("delphi")
    source = cache_of(opened, Path(cache) if cache else None)
    subject = Subject.load(opened, pick_device(device))
    if not 1 <= num_splits <= subject.sae.d_sae:
        raise ConfigError(f"{num_splits} files for {subject.sae.d_sae} latents", hint="at least one latent per file")
    tokens = _tokens(source, split, num_contexts)
    progress = progress or Silent()
    progress.start("delphi's latent cache", tokens.size, "tokens")
    with new_folder(out) as folder:
        module = folder / module_name(opened.hook)
        module.mkdir()
        files = _split_files(module, tokens, subject.sae.d_sae, num_splits)
        for chunk in chunks(source, opened.hook, Features(split=split, num_tokens=None)):
            end = int(np.searchsorted(chunk.context, len(tokens)))
            _add_active(subject, Chunk(chunk.x[:end], chunk.context[:end], chunk.position[:end]), files)
            progress.advance(end)
            if end < len(chunk.x):
                break
        for file in files:
            file.write(tokens)
        artifact.write_json(module / "config.json", _config(opened, source, split, tokens, num_splits))
    progress.finish()
    return out


def module_name(hook: str) -> str:
    """Returns `layers.19` for `blocks.19.hook_resid_post`. Hooks that are no layer's output keep our name."""
    point = HookPoint.parse(hook)
    below = point.num_layers_below if point.is_between_layers else 0
    return f"layers.{below - 1}" if below else hook


@dataclass(frozen=True)
class _SplitFile:
    """One file with the latents from `start` up to `stop`. During the pass it is two growing files."""

    folder: Path
    start: int
    stop: int
    dtype: np.dtype[Any]  # of `locations`

    def add(self, context: np.ndarray, position: np.ndarray, latent: np.ndarray, act: np.ndarray) -> None:
        """Adds the entries (num,) of this file's latents; calls and entries are in the order of the text."""
        mine = (latent >= self.start) & (latent < self.stop)
        locations = np.stack([context[mine], position[mine], latent[mine] - self.start], axis=1)
        for path, values in zip(self._growing, (locations.astype(self.dtype), act[mine]), strict=True):
            with path.open("ab") as file:
                file.write(values.tobytes())

    def write(self, tokens: np.ndarray) -> None:
        locations, acts = self._growing
        arrays = {
            "locations": np.fromfile(locations, self.dtype).reshape(-1, 3),
            "activations": np.fromfile(acts, np.float16),
            "tokens": tokens,
        }
        save_file(arrays, self.folder / f"{self.start}_{self.stop - 1}.safetensors")
        for path in self._growing:
            path.unlink()

    @property
    def _growing(self) -> tuple[Path, Path]:
        return self.folder / f"{self.start}.locations", self.folder / f"{self.start}.activations"


def _split_files(folder: Path, tokens: np.ndarray, d_sae: int, num_splits: int) -> list[_SplitFile]:
    bounds: list[int] = torch.linspace(0, d_sae, num_splits + 1).long().tolist()
    largest = max(*tokens.shape, *np.diff(bounds))
    dtype = np.dtype(np.uint16 if largest <= 2**16 else np.uint32)
    return [_SplitFile(folder, start, stop, dtype) for start, stop in pairwise(bounds)]


def _add_active(subject: Subject, chunk: Chunk, files: Sequence[_SplitFile]) -> None:
    first = 0
    for x in torch.split(chunk.x, rows_at_a_time(subject.sae.d_sae)):
        acts = subject.encode_sparse(x)
        kept = acts.values.abs() > _MIN_ACT
        row, latent, act = acts.pattern.rows[kept], acts.pattern.columns[kept], acts.values[kept].half()
        if not act.isfinite().all():
            largest = float(acts.values.abs().max())
            raise CorruptDataError(f"an activation of {largest:g} does not fit into delphi's float16")
        rows, entries = first + row.cpu().numpy(), (latent.cpu().numpy(), act.cpu().numpy())
        for file in files:
            file.add(chunk.context[rows], chunk.position[rows], *entries)
        first += len(x)


def _tokens(cache: Cache, split: Split, num_contexts: int | None) -> np.ndarray:
    """Returns the contexts whose rows are all stored, (num_contexts, context_size) int32; the last may lack rows."""
    if split == "heldout":
        contexts = cache.heldout.contexts
    else:
        context = cache.array(Layout.CONTEXT_ID)
        last = int(context.read(0, context.num_rows).max())
        contexts = cache.array(Layout.contexts(split)).read(0, last)
    if not len(contexts):
        raise ConfigError(f"{cache.path} has no complete context in {split}", hint="harvest more tokens")
    if num_contexts is not None and not 1 <= num_contexts <= len(contexts):
        raise ConfigError(f"{split} does not have {num_contexts:,} contexts", hint=f"1 to {len(contexts):,}")
    return np.ascontiguousarray(contexts[:num_contexts], np.int32)


def _config(run: Run, cache: Cache, split: Split, tokens: np.ndarray, num_splits: int) -> dict[str, Any]:
    """Returns delphi's CacheConfig without batch settings, which do not matter here. delphi reads `model_name` back."""
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

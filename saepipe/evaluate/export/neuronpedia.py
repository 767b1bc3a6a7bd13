"""A feature store as Neuronpedia's export tree, which its importer reads into a database.

    OUT/<model>/<source>/                    for example OUT/gemma-2-2b/19-topk-seed-0: upload it as v1/<model>/<source>
      release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl     one line each
      features/batch-<n>.jsonl.gz            table Neuron: one line per latent, 1,024 latents per file
      activations/batch-<n>.jsonl.gz         table Activation: one line per example of those latents; no empty file

Layout and fields come from, by repository, path and commit:

    jbloomAus/SAEDashboard    sae_dashboard/neuronpedia/neuronpedia_export.py                      3ea1249a
    hijohnnylin/neuronpedia   utils/neuronpedia-utils/neuronpedia_utils/export-data.py             1a80fe9b
                              apps/webapp/app/api/admin/import/route.ts   how the files are read   66486fd4
                              apps/webapp/lib/db/import.ts                how the files are read   efd6e355
                              apps/webapp/prisma/schema.prisma            columns and defaults     008d5040

The importer takes a file's columns from its first line, so all lines have the same keys, and a file without lines is an
error. Fields that we do not know are left out and take the database's defaults: explanations, correlations, the
histogram of logits, the time. A model's required fields layers, neuronsPerLayer (both 0) and owner (empty) are unknown
too, as in SAEDashboard; a model that the database has is never overwritten.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.errors import ConfigError
from saepipe.data.remote.places import new_folder
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.export.neuronpedia_rows import Row, activations, feature
from saepipe.evaluate.features.store import FeatureStore, StoreInfo
from saepipe.harvest.hook_point import HookPoint

CREATOR_ID = "clkht01d40000jv08hvalcvly"
"""The initial user of a Neuronpedia database (SAEDashboard's FALLBACK_CREATOR_ID)."""
_BATCH = 1024
_GZIP_LEVEL = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def export_neuronpedia(
    run: Path | str,
    out: Path,
    *,
    model: str | None = None,
    source_set: str | None = None,
    release: str | None = None,
    description: str | None = None,
    creator: str = "anonymous",
    creator_id: str = CREATOR_ID,
    url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the export tree of a run's feature store; repeating the same export changes nothing.

    Args:
        run: a run with a feature store, or the store's folder.
        out: the folder of all exports; several runs may share it.
        model: Neuronpedia's name of the model; default: the last part of its id in lower case.
        source_set: the name that the SAEs of one kind share across layers; default: variant and seed.
        release: the name of the publication that they belong to; default: the source set's name.
        description: description of the source set, for people; default: variant, seed and width.
        creator: author of the SAE.
        creator_id: the database user who owns the exported entries.
        url: URL of the publication.
        progress: receives the number of latents.

    Returns:
        OUT/<model>/<source>.

    Raises:
        ConfigError: if the run has no feature store, a name is not allowed, or the folder holds something else.
        CorruptDataError: if the store is damaged.
    """
    store = FeatureStore.open(run)
    names = _names(store.info, model, source_set, release, creator_id)
    metadata = _metadata(names, store.info, description, creator, url)
    folder = out / names.model / names.source
    progress = progress or Silent()
    progress.start("Neuronpedia's export tree", store.info.d_sae, "latents")
    with new_folder(folder) as partial:
        for name, row in metadata.items():
            _write(partial / f"{name}.jsonl", [row])
        _write_latents(partial, store, names, progress)
    progress.finish()
    return folder


@dataclass(frozen=True)
class _Names:
    """Neuronpedia's names for the SAE."""

    model: str
    source_set: str
    source: str  # layer and source set
    release: str
    creator_id: str


def _names(info: StoreInfo, model: str | None, source_set: str | None, release: str | None, creator_id: str) -> _Names:
    model = model or _slug(info.model["id"].rstrip("/").split("/")[-1].lower())
    source_set = source_set or _slug(f"{info.variant}-seed-{info.seed}")
    release = release or source_set
    for field, name in (("model", model), ("source set", source_set), ("release", release)):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is not a valid {field} for Neuronpedia", hint="letters, digits, dots, dashes")
    if len(hooks_of(info.hook)) > 1:
        raise ConfigError(f"the store is of a crosscoder of {info.hook}; Neuronpedia has one hook")
    return _Names(model, source_set, f"{HookPoint.parse(info.hook).layer}-{source_set}", release, creator_id)


def _metadata(names: _Names, info: StoreInfo, title: str | None, creator: str, url: str | None) -> Mapping[str, Row]:
    """Returns the one line of each metadata file, by the file's name."""
    title = title or f"{info.variant}, seed {info.seed}, {info.d_sae:,} latents"
    owned: Row = {"creatorId": names.creator_id, "visibility": "PUBLIC"}
    credit: Row = {"creatorName": creator, "urls": [url] if url else [], "description": title}
    display = {"displayName": names.model, "displayNameShort": names.model, "instruct": names.model.endswith("-it")}
    sites = f"transcoder from {info.hook} to {info.target}" if info.target else info.hook
    notes = (
        f"{sites}; saepipe run {info.run}, cache {info.cache} ({info.split}). "
        "Activations at special tokens, and at tokens that were not read, are written as 0."
    )
    prompts = {"num_prompts": info.num_contexts, "num_tokens_in_prompt": info.context_size}
    source = {"id": names.source, "modelId": names.model, "setName": names.source_set, "hasDashboards": True}
    return {
        "release": {"name": names.release} | credit | owned,
        "model": {"id": names.model, "layers": 0, "neuronsPerLayer": 0, "owner": ""} | display | owned,
        "sourceset": {"modelId": names.model, "name": names.source_set, "releaseName": names.release} | credit | owned,
        "source": source | {"dataset": info.dataset["source"], "notes": notes} | prompts | owned,
    }


def _write_latents(folder: Path, store: FeatureStore, names: _Names, progress: Progress) -> None:
    shared = {"modelId": names.model, "layer": names.source, "creatorId": names.creator_id}
    for number, start in enumerate(range(0, store.info.d_sae, _BATCH)):
        latents = [store.latent(index) for index in range(start, min(start + _BATCH, store.info.d_sae))]
        features = [shared | {"sourceSetName": names.source_set} | feature(latent) for latent in latents]
        examples = [shared | row for latent in latents for row in activations(latent, store.info.run, names.source)]
        for table, rows in (("features", features), ("activations", examples)):
            if rows:
                _write(folder / table / f"batch-{number}.jsonl.gz", rows)
        progress.advance(len(latents))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")


def _write(path: Path, rows: Sequence[Row]) -> None:
    """Writes JSON lines; a .gz file is compressed, without a timestamp."""
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data, _GZIP_LEVEL, mtime=0) if path.suffix == ".gz" else data)

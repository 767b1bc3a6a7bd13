"""A feature store as Neuronpedia's export tree, which its importer reads into a database.

    OUT/<model>/<source>/                    for example OUT/gemma-2-2b/19-topk-seed-0: upload it as v1/<model>/<source>
      release.jsonl  model.jsonl  sourceset.jsonl  source.jsonl     a line each
      features/batch-<n>.jsonl.gz            table Neuron: a line a latent, 1,024 latents a file
      activations/batch-<n>.jsonl.gz         table Activation: a line an example of those latents; no file without one

Layout and fields, by repository, path and commit:

    jbloomAus/SAEDashboard    sae_dashboard/neuronpedia/neuronpedia_export.py                      3ea1249a
    hijohnnylin/neuronpedia   utils/neuronpedia-utils/neuronpedia_utils/export-data.py             1a80fe9b
                              apps/webapp/app/api/admin/import/route.ts   how the files are read   66486fd4
                              apps/webapp/lib/db/import.ts                likewise                 efd6e355
                              apps/webapp/prisma/schema.prisma            columns and defaults     008d5040

The importer takes a file's columns from its first line, so all lines have the same keys, and a file without lines is an
error there. What we do not know is left out and takes the database's default: explanations, correlations, the histogram
of logits, the time. Required there and not known here, as in SAEDashboard: a model's layers and neuronsPerLayer (0) and
owner (empty); a model that the database has is never overwritten.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.errors import ConfigError
from saepipe.data.folders.atomic_folder import whole_folder
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.export.neuronpedia_rows import Row, activations, feature
from saepipe.evaluate.features.store import FeatureStore, Info
from saepipe.harvest.hooks import HookPoint

CREATOR_ID = "clkht01d40000jv08hvalcvly"
"""The user whom a database of Neuronpedia begins with (SAEDashboard's FALLBACK_CREATOR_ID)."""
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
    """Writes the export tree of a run's feature store; the same export again changes nothing.

    Args:
        run: a run with a feature store, or the store's folder.
        out: the folder of all exports; several runs may share it.
        model: Neuronpedia's name of the model; where not given, the last part of its id in lower case.
        source_set: the name that the SAEs of one kind share across layers; where not given, variant and seed.
        release: the name of the publication that they belong to; where not given, that of the source set.
        description: of the source set, for people; where not given, variant, seed and width.
        creator: who made the SAE.
        creator_id: the user of the database to whom all of this belongs.
        url: of the publication.
        progress: told of the latents.

    Returns:
        OUT/<model>/<source>.

    Raises:
        ConfigError: if the run has no feature store, a name will not do, or the folder holds something else.
        CorruptDataError: if the store is damaged.
    """
    store = FeatureStore.open(run)
    place = _place(store.info, model, source_set, release, creator_id)
    described = _described(place, store.info, description, creator, url)
    folder = out / place.model / place.source
    progress = progress or Silent()
    progress.start("Neuronpedia's export tree", store.info.d_sae, "latents")
    with whole_folder(folder) as partial:
        for name, row in described.items():
            _write(partial / f"{name}.jsonl", [row])
        _write_latents(partial, store, place, progress)
    progress.finish()
    return folder


@dataclass(frozen=True)
class _Place:
    """Where the SAE belongs, in Neuronpedia's names."""

    model: str
    source_set: str
    source: str  # layer and source set
    release: str
    creator_id: str


def _place(info: Info, model: str | None, source_set: str | None, release: str | None, creator_id: str) -> _Place:
    model = model or _slug(info.model["id"].rstrip("/").split("/")[-1].lower())
    source_set = source_set or _slug(f"{info.variant}-seed-{info.seed}")
    release = release or source_set
    for what, name in (("model", model), ("source set", source_set), ("release", release)):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no {what} for Neuronpedia", hint="letters, digits, dots, dashes")
    return _Place(model, source_set, f"{HookPoint.parse(info.hook).layer}-{source_set}", release, creator_id)


def _described(place: _Place, info: Info, description: str | None, creator: str, url: str | None) -> Mapping[str, Row]:
    """The one line of each file that says what is exported, by the file's name."""
    title = description or f"{info.variant}, seed {info.seed}, {info.d_sae:,} latents"
    owned: Row = {"creatorId": place.creator_id, "visibility": "PUBLIC"}
    credit: Row = {"creatorName": creator, "urls": [url] if url else [], "description": title}
    shown = {"displayName": place.model, "displayNameShort": place.model, "instruct": place.model.endswith("-it")}
    notes = (
        f"{info.hook}; saepipe run {info.run}, cache {info.cache} ({info.split}). "
        "Activations at special tokens, and at tokens that were not read, are written as 0."
    )
    texts = {"num_prompts": info.num_contexts, "num_tokens_in_prompt": info.context_size}
    source = {"id": place.source, "modelId": place.model, "setName": place.source_set, "hasDashboards": True}
    return {
        "release": {"name": place.release} | credit | owned,
        "model": {"id": place.model, "layers": 0, "neuronsPerLayer": 0, "owner": ""} | shown | owned,
        "sourceset": {"modelId": place.model, "name": place.source_set, "releaseName": place.release} | credit | owned,
        "source": source | {"dataset": info.dataset["source"], "notes": notes} | texts | owned,
    }


def _write_latents(folder: Path, store: FeatureStore, place: _Place, progress: Progress) -> None:
    shared = {"modelId": place.model, "layer": place.source, "creatorId": place.creator_id}
    for number, start in enumerate(range(0, store.info.d_sae, _BATCH)):
        latents = [store.latent(index) for index in range(start, min(start + _BATCH, store.info.d_sae))]
        features = [shared | {"sourceSetName": place.source_set} | feature(latent) for latent in latents]
        examples = [shared | row for latent in latents for row in activations(latent, store.info.run, place.source)]
        for table, rows in (("features", features), ("activations", examples)):
            if rows:
                _write(folder / table / f"batch-{number}.jsonl.gz", rows)
        progress.advance(len(latents))


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")


def _write(path: Path, rows: Sequence[Row]) -> None:
    """JSON lines, compressed without a time where the name says so."""
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data, _GZIP_LEVEL, mtime=0) if path.suffix == ".gz" else data)

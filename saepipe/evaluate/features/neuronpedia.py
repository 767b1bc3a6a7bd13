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

What its pages make of some fields:
- topkCosSimIndices begins with the latent itself: apps/webapp/components/panes/cossim-pane.tsx skips the first value;
- binMin and binMax are bounds of activation within which examples are listed, -1 in the top group, and binContains is
  the share of tokens there (SAEDashboard's sequence_data_generator.py). Here the bounds lie between the store's
  quantile groups, and the share is the density times the group's part of the sample;
- the bars of the histogram of activations are of one width, so the store's bins, a quarter of an octave each, are
  spread out evenly within themselves;
- values are numbers: where the store knows none (special tokens, tokens that were not read), 0 as SAEDashboard has it
  at BOS. `notes` of the source says so.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.errors import ConfigError
from saepipe.data.whole import whole_folder
from saepipe.evaluate.features.store import Example, FeatureStore, Info, Latent
from saepipe.harvest.hooks import HookPoint

CREATOR_ID = "clkht01d40000jv08hvalcvly"
"""The user whom a database of Neuronpedia begins with (SAEDashboard's FALLBACK_CREATOR_ID)."""
_BATCH = 1024
_NUM_BARS = 50
_GZIP_LEVEL = 5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Row = dict[str, Any]


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

    Returns:
        OUT/<model>/<source>.

    Raises:
        ConfigError: if the run has no feature store, a name will not do, or the folder holds something else.
        CorruptDataError: if the store is damaged.
    """
    store = FeatureStore.open(run)
    info = store.info
    source_set = source_set or _slug(f"{info.variant}-seed-{info.seed}")
    names = {"model": model or _slug(info.model["id"].rstrip("/").split("/")[-1].lower()), "source set": source_set}
    names |= {"release": release or source_set}
    for what, name in names.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no {what} for Neuronpedia", hint="letters, digits, dots, dashes")
    belongs = {"modelId": names["model"], "creatorId": creator_id}
    title = description or f"{info.variant}, seed {info.seed}, {info.d_sae:,} latents"
    source = f"{HookPoint.parse(info.hook).layer}-{source_set}"

    credit: Row = {
        "creatorName": creator,
        "creatorId": creator_id,
        "urls": [url] if url else [],
        "visibility": "PUBLIC",
    }
    with whole_folder(out / names["model"] / source) as folder:
        _write(folder / "release.jsonl", [{"name": names["release"], "description": title, **credit}])
        _write(folder / "model.jsonl", [_model(names["model"], creator_id)])
        sources = {"modelId": names["model"], "name": source_set, "releaseName": names["release"], "description": title}
        _write(folder / "sourceset.jsonl", [sources | credit])
        _write(folder / "source.jsonl", [{"id": source, "setName": source_set, **belongs, **_source(info)}])
        for number, start in enumerate(range(0, info.d_sae, _BATCH)):
            latents = [store.latent(index) for index in range(start, min(start + _BATCH, info.d_sae))]
            layer = {**belongs, "layer": source}
            features = [{**layer, "sourceSetName": source_set, **_feature(latent)} for latent in latents]
            examples = [{**layer, **row} for latent in latents for row in _activations(latent, source, info)]
            for kind, rows in (("features", features), ("activations", examples)):
                if rows:
                    _write(folder / kind / f"batch-{number}.jsonl.gz", rows)
    return out / names["model"] / source


def _model(name: str, creator_id: str) -> Row:
    shown = {"displayName": name, "displayNameShort": name, "instruct": name.endswith("-it"), "visibility": "PUBLIC"}
    return {"id": name, "creatorId": creator_id, "layers": 0, "neuronsPerLayer": 0, "owner": "", **shown}


def _source(info: Info) -> Row:
    notes = (
        f"{info.hook}; saepipe run {info.run}, cache {info.cache} ({info.split}). "
        "Activations at special tokens, and at tokens that were not read, are written as 0."
    )
    texts = {"num_prompts": info.num_contexts, "num_tokens_in_prompt": info.context_size}
    return {"visibility": "PUBLIC", "hasDashboards": True, "dataset": info.dataset["source"], **texts, "notes": notes}


def _feature(latent: Latent) -> Row:
    """A line of the table Neuron, less what all lines share."""
    bars = _bars(latent)
    near = [(latent.index, 1.0), *latent.neighbours] if latent.neighbours else []
    row: Row = {
        "index": str(latent.index),
        "maxActApprox": _short(latent.max_act or 0.0),
        "frac_nonzero": latent.density,
        "freq_hist_data_bar_heights": [_short(height) for height, _ in bars],
        "freq_hist_data_bar_values": [_short(value) for _, value in bars],
        "topkCosSimIndices": [index for index, _ in near],
        "topkCosSimValues": [_short(cosine) for _, cosine in near],
    }
    for sign, logits in (("pos", latent.positive_logits), ("neg", latent.negative_logits)):
        if logits is not None:  # of no latent, then
            row |= {f"{sign}_str": [token for token, _ in logits], f"{sign}_values": [_short(v) for _, v in logits]}
    return row


def _bars(latent: Latent) -> list[tuple[float, float]]:
    """Heights (tokens) and middles of the bars, from 0 to the largest activation; the heights add up to num_active."""
    edges, counts = latent.histogram
    if not counts:
        return []
    bounds = [*edges[:-1], max(latent.max_act or 0.0, edges[-2])]  # nothing lies between the largest and its bin's end
    below = np.concatenate([[0], np.cumsum(counts)])
    ends = np.linspace(0, bounds[-1], _NUM_BARS + 1)
    heights = np.diff(np.interp(ends, bounds, below))
    return list(zip(heights.tolist(), ((ends[1:] + ends[:-1]) / 2).tolist(), strict=True))


def _activations(latent: Latent, source: str, info: Info) -> list[Row]:
    """Lines of the table Activation, less what all lines share."""
    groups = _groups(latent)
    return [
        {
            "id": _id(info.run, source, latent.index, number),
            "index": str(latent.index),
            **_text(example),
            **groups[example.group],
            "qualifyingTokenIndex": example.peak,
        }
        for number, example in enumerate(latent.examples)
    ]


def _groups(latent: Latent) -> Mapping[str, Row]:
    """Of each group of examples: bounds, and the share of tokens between them."""
    sample = [example for example in latent.examples if example.group != "top"]
    names = list(dict.fromkeys(example.group for example in sample))  # from weak to strong
    highest = [max(example.acts[example.peak] or 0.0 for example in sample if example.group == n) for n in names]
    bounds = [0.0, *highest]
    bounds[-1] = latent.max_act or 0.0
    groups: dict[str, Row] = {"top": _bin(-1, latent.max_act or 0.0, -1)}
    for name, (low, high) in zip(names, pairwise(bounds), strict=True):
        share = sum(example.group == name for example in sample) / len(sample)
        groups[name] = _bin(low, high, latent.density * share)
    return groups


def _bin(low: float, high: float, contains: float) -> Row:
    return {"binMin": _short(low), "binMax": _short(high), "binContains": _short(contains)}


def _text(example: Example) -> Row:
    values = [_short(act or 0.0) for act in example.acts]
    highest = max(values)
    extremes = {"maxValue": highest, "maxValueTokenIndex": values.index(highest), "minValue": min(values)}
    return {"tokens": example.tokens, "values": values, **extremes}


def _id(*of: str | int) -> str:
    """25 letters and digits, like a cuid, and the same whenever it is written: importing twice adds nothing."""
    return "c" + hashlib.sha256("/".join(map(str, of)).encode()).hexdigest()[:24]


def _short(value: float) -> float:
    """Four digits; the store's own activations have three."""
    return float(f"{value:.4g}")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")


def _write(path: Path, rows: Sequence[Row]) -> None:
    """JSON lines, compressed without a time where the name says so."""
    data = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data, _GZIP_LEVEL, mtime=0) if path.suffix == ".gz" else data)

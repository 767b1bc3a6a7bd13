"""Neuronpedia's export tree, read as by its importer, field by field against the store."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.interrupted_harvests import contents
from helpers.made_stores import write_store
from saepipe.data.errors import ConfigError
from saepipe.evaluate.export import neuronpedia, neuronpedia_rows
from saepipe.evaluate.export.neuronpedia import export_neuronpedia
from saepipe.evaluate.features.store import FeatureStore

SOURCE = "1-base-seed-0"
SHARED = {"modelId": str, "layer": str, "index": str, "creatorId": str}
COLUMNS: dict[str, dict[str, Any]] = {
    "features": SHARED
    | {"sourceSetName": str, "maxActApprox": float, "frac_nonzero": float}
    | {"freq_hist_data_bar_heights": [float], "freq_hist_data_bar_values": [float]}
    | {"topkCosSimIndices": [int], "topkCosSimValues": [float]}
    | {"pos_str": [str], "pos_values": [float], "neg_str": [str], "neg_values": [float]},
    "activations": SHARED
    | {"id": str, "tokens": [str], "values": [float], "maxValue": float, "minValue": float, "maxValueTokenIndex": int}
    | {"binMin": float, "binMax": float, "binContains": float, "qualifyingTokenIndex": int},
}
"""Columns of the tables Neuron and Activation in schema.prisma, with types; others have defaults or are nullable."""
PRISMA = {
    "release": {"name", "description", "creatorName", "creatorId", "urls", "visibility"},
    "model": {"id", "creatorId", "layers", "neuronsPerLayer", "owner", "displayName", "displayNameShort", "instruct"}
    | {"visibility"},
    "sourceset": {"modelId", "name", "releaseName", "description", "creatorName", "creatorId", "urls", "visibility"},
    "source": {"id", "modelId", "setName", "creatorId", "visibility", "hasDashboards", "dataset", "notes"}
    | {"num_prompts", "num_tokens_in_prompt"},
}
"""Fields that are created unchecked: an unknown field is an error, and so is a missing one."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads like the importer, which fails without a first line, and takes the columns from it."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = [json.loads(line) for line in data.decode().replace("\\u0000", " ").strip().split("\n")]
    assert all(list(line) == list(lines[0]) for line in lines)
    return lines


def read_table(folder: Path, table: str) -> list[dict[str, Any]]:
    lines = [line for path in sorted((folder / table).iterdir()) for line in read_lines(path)]
    for name, kind in COLUMNS[table].items():
        for line in lines:
            if isinstance(kind, list):
                assert all(type(value) is kind[0] for value in line[name]), name
            else:
                assert type(line[name]) is kind, name
    assert all(line.keys() == COLUMNS[table].keys() for line in lines)
    return lines


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_store(tmp_path / "base" / "seed-0", 33)


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return export_neuronpedia(run, tmp_path / "exports")


def test_the_tree_is_what_the_importer_expects(run: Path, folder: Path, tmp_path: Path) -> None:
    assert folder == tmp_path / "exports" / "toy" / SOURCE
    rows = {kind: read_lines(folder / f"{kind}.jsonl") for kind in PRISMA}
    assert {kind: (len(lines), lines[0].keys()) for kind, lines in rows.items()} == {
        kind: (1, keys) for kind, keys in PRISMA.items()
    }
    release, model, sourceset, source = (lines[0] for lines in rows.values())
    assert release["name"] == sourceset["releaseName"] == sourceset["name"] == source["setName"] == "base-seed-0"
    assert model["id"] == sourceset["modelId"] == source["modelId"] == "toy"
    info = FeatureStore.open(run).info
    assert (source["num_prompts"], source["num_tokens_in_prompt"]) == (info.num_contexts, info.context_size)
    assert source["dataset"] == "toy"
    assert info.run in source["notes"]
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    batches = {f"{kind}/batch-0.jsonl.gz" for kind in COLUMNS}
    assert names == {*(f"{kind}.jsonl" for kind in PRISMA), *batches}  # without explanations, which we do not have


def test_each_latent_is_a_feature_with_the_stores_values(run: Path, folder: Path) -> None:
    store, rows = FeatureStore.open(run), read_table(folder, "features")
    assert [row["index"] for row in rows] == [str(index) for index in range(33)]
    for row in rows:
        latent = store.latent(int(row["index"]))
        assert (row["modelId"], row["layer"], row["sourceSetName"]) == ("toy", SOURCE, "base-seed-0")
        assert row["frac_nonzero"] == latent.density == latent.num_active / store.info.num_tokens
        assert row["maxActApprox"] == pytest.approx(latent.max_act or 0, rel=1e-3)
        for sign, logits in (("pos", latent.positive_logits), ("neg", latent.negative_logits)):
            assert logits is not None
            assert row[f"{sign}_str"] == [token for token, _ in logits]
            assert row[f"{sign}_values"] == pytest.approx([value for _, value in logits], rel=1e-3)
        assert row["topkCosSimIndices"] == [latent.index, *(index for index, _ in latent.neighbours)]
        assert row["topkCosSimValues"] == pytest.approx([1, *(cosine for _, cosine in latent.neighbours)], rel=1e-3)


def test_the_histogram_has_equal_bars_and_all_tokens(run: Path, folder: Path) -> None:
    store = FeatureStore.open(run)
    for row in read_table(folder, "features"):
        latent, heights = store.latent(int(row["index"])), row["freq_hist_data_bar_heights"]
        values = row["freq_hist_data_bar_values"]
        assert len(heights) == len(values) == (0 if latent.dead else 50)
        assert sum(heights) == pytest.approx(latent.num_active, rel=1e-2)
        assert values == pytest.approx([(2 * bar + 1) * values[0] for bar in range(len(values))], rel=1e-3)


def test_a_bin_is_spread_over_its_bars_by_width(run: Path) -> None:
    """2 tokens are between 1 and 2, and 8 between 2 and 4 but none above 3: 50 bars of 0.06 from 0 to 3."""
    latent = replace(FeatureStore.open(run).latent(0), histogram=([1.0, 2.0, 4.0], [2, 8]), max_act=3.0)
    bars = neuronpedia_rows.bars(latent)
    assert [value for _, value in bars] == pytest.approx([0.03 + 0.06 * bar for bar in range(50)])
    for height, value in bars:
        if min(abs(value - edge) for edge in (1, 2)) > 0.03:  # the bar lies in one bin
            assert height == pytest.approx(0.06 * (0 if value < 1 else 2 if value < 2 else 8))
    assert sum(height for height, _ in bars) == pytest.approx(10)


def test_each_example_is_an_activation_with_the_stores_values(run: Path, folder: Path) -> None:
    store, rows = FeatureStore.open(run), read_table(folder, "activations")
    expected = [
        (latent, example) for index in range(33) for latent in [store.latent(index)] for example in latent.examples
    ]
    assert len(rows) == len(expected) == 30 * 32
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(re.fullmatch("c[0-9a-f]{24}", row["id"]) for row in rows)
    unknown = 0
    for row, (latent, example) in zip(rows, expected, strict=True):
        assert (row["index"], row["layer"], row["modelId"]) == (str(latent.index), SOURCE, "toy")
        assert row["tokens"] == example.tokens
        assert row["values"] == pytest.approx([act or 0 for act in example.acts], rel=1e-3)
        unknown += example.acts.count(None)
        assert row["qualifyingTokenIndex"] == example.peak
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["minValue"] == min(row["values"])
    assert unknown > 10


def test_groups_have_adjacent_bounds(run: Path, folder: Path) -> None:
    store, rows = FeatureStore.open(run), read_table(folder, "activations")
    groups: dict[tuple[int, str], set[tuple[float, float, float]]] = {}
    for row, example in zip(rows, [e for i in range(33) for e in store.latent(i).examples], strict=True):
        bounds = (row["binMin"], row["binMax"], row["binContains"])
        groups.setdefault((int(row["index"]), example.group), set()).add(bounds)
        if example.group != "top":
            assert row["binMin"] <= row["values"][example.peak] <= row["binMax"]
    for latent in (store.latent(index) for index in range(33) if index % 10 != 9):
        ((low, high, share),) = groups[latent.index, "top"]
        assert (low, share) == (-1, -1)
        assert high == pytest.approx(latent.max_act, rel=1e-3)
        ((*first, _),), ((*second, _),), ((*third, _),), ((*fourth, _),) = (
            groups[latent.index, f"q{n}"] for n in range(1, 5)
        )
        assert (first[0], fourth[1]) == (0, high)
        assert (first[1], second[1], third[1]) == (second[0], third[0], fourth[0])
        shares = [next(iter(groups[latent.index, f"q{n}"]))[2] for n in range(1, 5)]
        assert shares == pytest.approx([latent.density / 4] * 4, rel=1e-3)


def test_a_dead_latent_is_a_feature_without_activations(run: Path, folder: Path) -> None:
    dead = read_table(folder, "features")[9]
    assert (dead["frac_nonzero"], dead["maxActApprox"], dead["freq_hist_data_bar_heights"]) == (0, 0, [])
    assert dead["pos_str"]
    assert "9" not in {row["index"] for row in read_table(folder, "activations")}


@pytest.mark.parametrize(("d_sae", "batches", "without"), [(10, 1, {9}), (11, 2, {9}), (20, 2, {9, 19}), (19, 2, {9})])
def test_awkward_widths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, d_sae: int, batches: int, without: set[int]
) -> None:
    monkeypatch.setattr(neuronpedia, "_BATCH", 10)
    folder = export_neuronpedia(write_store(tmp_path / "base" / "seed-0", d_sae), tmp_path / "exports")
    files = sorted(path.name for path in (folder / "features").iterdir())
    assert files == [f"batch-{n}.jsonl.gz" for n in range(batches)]
    assert len(read_lines(folder / "features" / files[-1])) == d_sae - 10 * (batches - 1)
    assert [row["index"] for row in read_table(folder, "features")] == [str(index) for index in range(d_sae)]
    assert {int(row["index"]) for row in read_table(folder, "activations")} == set(range(d_sae)) - without


def test_a_batch_of_dead_latents_has_no_file_of_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The importer would fail on an empty file."""
    monkeypatch.setattr(neuronpedia, "_BATCH", 9)
    folder = export_neuronpedia(write_store(tmp_path / "base" / "seed-0", 10), tmp_path / "exports")
    assert [path.name for path in (folder / "activations").iterdir()] == ["batch-0.jsonl.gz"]
    assert len(list((folder / "features").iterdir())) == 2


def test_without_logits_their_columns_are_left_out(tmp_path: Path) -> None:
    run = write_store(tmp_path / "base" / "seed-0", 4, no_logits="no model")
    rows = read_lines(export_neuronpedia(run, tmp_path / "exports") / "features" / "batch-0.jsonl.gz")
    assert rows[0].keys() == COLUMNS["features"].keys() - {"pos_str", "pos_values", "neg_str", "neg_values"}


def test_tokens_are_exported_unchanged(run: Path, folder: Path) -> None:
    """Quotes, markup, line ends and accents do not break a line."""
    tokens = {token for row in read_table(folder, "activations") for token in row["tokens"]}
    assert {"\n", " café", " <b>", '"quoted"', "<bos>"} <= tokens
    path = folder / "activations" / "batch-0.jsonl.gz"
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 30 * 32


def test_names_can_be_given_and_must_be_valid(run: Path, tmp_path: Path) -> None:
    names = {"model": "gemma-2-2b", "source_set": "mine-res-16k", "release": "mine", "creator": "Me", "creator_id": "u"}
    folder = export_neuronpedia(run, tmp_path / "exports", **names)
    assert folder.relative_to(tmp_path) == Path("exports/gemma-2-2b/1-mine-res-16k")
    assert {row["creatorId"] for row in read_table(folder, "features")} == {"u"}
    assert read_lines(folder / "release.jsonl")[0]["creatorName"] == "Me"
    for wrong in ("", "../up", "a/b", ".hidden"):
        with pytest.raises(ConfigError, match=r"is not a valid source set"):
            export_neuronpedia(run, tmp_path / "exports", model="m", source_set=wrong or "a b")


def test_an_export_can_be_repeated_but_not_replaced(run: Path, folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    assert export_neuronpedia(run, tmp_path / "exports") == folder
    assert contents(folder) == before
    with pytest.raises(ConfigError, match="holds something else"):
        export_neuronpedia(run, tmp_path / "exports", creator="somebody else")
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [SOURCE]


def test_a_missing_store_is_reported_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="saepipe evaluate RUN"):
        export_neuronpedia(tmp_path, tmp_path / "exports")
    assert not (tmp_path / "exports").exists()

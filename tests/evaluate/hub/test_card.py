"""Model card: every value in it is from the run, its cache or its results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from helpers.made_caches import structured_rows, write_cache
from helpers.made_results import write_core, write_run
from helpers.random_runs import TRANSCODER_HOOKS, random_transcoder
from saepipe.data.cache.cache import Cache
from saepipe.data.config.component import Component, import_members
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.folders.sealed_result import write_result
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.card import card
from saepipe.evaluate.hub.facts import Facts, description_and_formula
from saepipe.evaluate.hub.push import push
from saepipe.evaluate.results.run_results import read_row
from saepipe.train.config import TrainConfig
from saepipe.train.penalties import l1
from saepipe.train.penalties.base import Penalty
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.importing import import_sae
from saepipe.train.sae.base import Architecture
from saepipe.train.transforms.base import Transform

TO = "hf://org/name"
MODEL, DATASET = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def from_hub(trained: list[Path], toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its cache, edited as if model and dataset were from a hub."""
    folder = tmp_path_factory.mktemp("from-hub")
    cache = Path(shutil.copytree(toy_cache, folder / "cache"))
    group = json.loads((cache / "zarr.json").read_text())
    attributes = group["attributes"]["saepipe"]
    attributes["model"] |= {"id": "google/gemma-2-2b", "revision": MODEL}
    attributes["dataset"] = {"source": "org/texts", "revision": DATASET}
    (cache / "zarr.json").write_text(json.dumps(group))
    lines = artifact.read_manifest(cache)
    (metadata,) = (line["files"] for line in lines if "zarr.json" in line["files"])
    metadata |= artifact.digest_files(cache, ["zarr.json"])
    artifact.rewrite_manifest(cache, lines)
    artifact.commit(cache)
    raw = open_run(trained[0]).config.to_dict() | {"cache": str(cache), "variants": [{"name": "one"}]}
    (run,) = train(TrainConfig.parse(raw), folder)
    result = json.loads((trained[0] / "eval" / "core.json").read_text())
    opened = open_run(run)
    fingerprints = {"run": opened.fingerprint, "cache": opened.cache_fingerprint, "model": attributes["model"]}
    result["saepipe"]["fingerprints"] |= fingerprints
    write_result(run / "eval" / "core.json", result)
    return run, cache


def page(run: Path, to: str = TO, cache: Path | None = None) -> str:
    return str(push(run, to, dry_run=True, cache=cache)["card"])


def line(text: str, start: str) -> str:
    """The only line with this start."""
    (match,) = [line for line in text.splitlines() if line.startswith(start)]
    return match


def test_front_matter(from_hub: tuple[Path, Path]) -> None:
    answer = push(from_hub[0], TO, dry_run=True, licence="mit")
    front = ModelCard(answer["card"]).data.to_dict()
    index = front.pop("model-index")
    assert front == {
        "library_name": "saelens",
        "tags": ["saepipe", "sparse-autoencoder"],
        "base_model": ["google/gemma-2-2b"],
        "datasets": ["org/texts"],
        "license": "mit",
    }
    cells = read_row(open_run(from_hub[0])).cells
    ((model,), (result,)) = index, index[0]["results"]
    assert model["name"] == "one/seed-0"
    assert result["dataset"] == {"name": "held-out part of org/texts", "type": "org/texts", "revision": DATASET}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    keys = ("l0", "explained_variance", "delta_ce", "ce_loss_score", "frac_alive")
    assert values == {key: cells[key].value for key in keys}


def test_the_section_of_a_run(from_hub: tuple[Path, Path]) -> None:
    path, cache = from_hub
    text, run = page(path), open_run(path)
    assert line(text, "# ") == "# Sparse autoencoder for google/gemma-2-2b at blocks.1.hook_resid_post"
    assert line(text, "| base model") == f"| base model | `google/gemma-2-2b`, at `{MODEL}` |"
    assert line(text, "| dataset") == f"| dataset | `org/texts`, at `{DATASET}` |"
    assert line(text, "| hook") == "| hook | `blocks.1.hook_resid_post` |"
    assert line(text, "| training") == "| training | 320 tokens |"  # 5 steps of 64
    assert line(text, "| d_in") == "| d_in, d_sae | 128, 24 |"
    formula = l1.L1.__doc__
    assert line(text, "- penalty") == f"- penalty `l1`: {l1.__doc__} `` {formula} `` weight 1.0, warmup 0.0"
    assert "`relu`: The plain sparse autoencoder" in line(text, "- `relu`")
    ev = read_row(run).cells["explained_variance"]
    assert line(text, "| explained variance") == (
        f"| explained variance | {ev.value:.4g} | {ev.low:.4g} to {ev.high:.4g} |"
    )
    tokens = json.loads((path / "eval" / "core.json").read_text())["saepipe"]["counts"]["tokens"]
    assert f"the variation between training seeds. On {tokens} held-out tokens" in text
    assert "- `core`: metric_version 2, mode fixed, activations stored, config.name core, config.num_contexts 4" in text
    assert f"- run `{run.fingerprint}` (config `{run.run_id}`), by saepipe at commit tests; " in text
    assert f"- cache `{run.cache_fingerprint}`, harvested at commit tests" in text
    weights = Cache.open(cache).attributes["model"]["weights"]
    assert f"- model `google/gemma-2-2b`, at `{MODEL}`; weights xxh3 `{weights}`" in text
    assert 'SAE.from_pretrained(release="org/name", sae_id="one/seed-0/sae")' in text
    assert "saepipe pull hf://org/name/one/seed-0 --out one/seed-0" in text
    licence = text.split("## Licence", 1)[1]
    assert "The author has not stated a licence" in licence
    assert "[google/gemma-2-2b](https://huggingface.co/google/gemma-2-2b)" in licence
    assert "[org/texts](https://huggingface.co/datasets/org/texts)" in licence


def test_unknown_facts_are_called_unknown(runs: list[Path], toy_cache: Path, tmp_path: Path) -> None:
    """Without its cache, the model is known from the results; another cache in its place is not used."""
    text = page(runs[0])
    assert line(text, "| base model") == "| base model | `toy`, embedded in saepipe |"
    assert "harvested at commit unknown" in text
    bare = write_run(tmp_path / "bare" / "seed-0", cache=str(toy_cache))
    text = page(bare)
    assert line(text, "| base model") == "| base model | unknown |"
    assert line(text, "| dataset") == "| dataset | unknown |"
    assert "weights xxh3 `unknown`" in text
    assert "It was not evaluated." in text
    front = ModelCard(text).data.to_dict()
    assert front == {"library_name": "saelens", "tags": ["saepipe", "sparse-autoencoder"]}


def test_local_models_and_datasets_are_named_by_the_last_part_of_their_path(runs: list[Path], tmp_path: Path) -> None:
    run = write_run(tmp_path / "local" / "seed-0")
    cfg = json.loads((run / "sae" / "cfg.json").read_text())
    metadata = {"model_name": "/home/somebody/models/mine", "dataset_path": "./texts/all.jsonl"}
    facts = Facts.of(open_run(run))
    (run / "sae" / "cfg.json").write_text(json.dumps(cfg | {"metadata": metadata}))
    text = card([(Facts.of(facts.run), Address("org/name", "local/seed-0"))])
    assert line(text, "| base model") == "| base model | `mine`, revision unknown |"
    assert line(text, "| dataset") == "| dataset | `all.jsonl`, revision unknown |"
    assert "somebody" not in text


def test_several_runs_share_a_table(tmp_path: Path) -> None:
    weak, strong = ([{"name": "l1", "weight": weight}] for weight in (1.0, 2.0))
    runs = [
        write_run(tmp_path / "study" / "weak" / "seed-0", penalties=weak),
        write_run(tmp_path / "study" / "strong" / "seed-0", penalties=strong),
    ]
    write_core(runs[0], l0=10.0, ev=0.9, warnings=("half of the texts were empty",))
    write_core(runs[1], l0=5.0, ev=None)
    answer = push(runs, TO, dry_run=True, licence="apache-2.0")
    text = answer["card"]
    assert line(text, "| run ").startswith("| run | penalties.0.weight | health | L0 | explained variance |")
    assert line(text, "| weak/seed-0").startswith("| weak/seed-0 | 1.0 | ok | 10 ±1 | 0.9 ±0.01 | 0.5 |")
    assert line(text, "| strong/seed-0").startswith("| strong/seed-0 | 2.0 | ok | 5 ±1 | undefined | 0.5 |")
    assert "- H18: L0 is 5 against 10: sparsity is not matched" in text
    assert line(text, "| explained variance | undef") == "| explained variance | undefined: nothing varies | - |"
    assert answer["findings"] == ["weak/seed-0: half of the texts were empty"]
    assert text.index("half of the texts") < text.index("## All runs")
    assert [part for part in text.splitlines() if part.startswith("## ")] == [
        *("## All runs", "## weak/seed-0", "## strong/seed-0", "## Licence"),
    ]
    assert "model-index" not in ModelCard(text).data.to_dict()


def test_components_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin is described by its docstrings if it has any; the card says that its code is not included."""
    monkeypatch.setattr(Penalty, "members", dict(Penalty.members))
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from typing import Literal\n"
        "from saepipe.train.penalties.base import Penalised, Penalty\n"
        "class Mine(Penalty):\n"
        "    name: Literal['mine'] = 'mine'\n"
        "    def __call__(self, ctx, state, now):\n"
        "        return Penalised(ctx.acts_sum.sum(), {}, state)\n"
    )
    config = {
        "plugins": [str(plugin)],
        "penalties": [{"name": "mine", "weight": 2.0}],
        "plugin_sources": {"mine": "0123456789abcdef"},
    }
    run = write_run(tmp_path / "own" / "seed-0", **config)
    answer = push(run, TO, dry_run=True)
    assert line(answer["card"], "- penalty") == "- penalty `mine` weight 2.0, warmup 0.0"
    assert "- code of the author, not included here: `mine.py` (SHA-256 0123456789abcdef...)" in answer["card"]
    assert answer["local_paths"] == [f"own/seed-0/config.yaml: plugins.0: {plugin}"]


def test_an_imported_run(runs: list[Path], toy_cache: Path, tmp_path: Path) -> None:
    out = import_sae(runs[0] / "sae", "saelens", toy_cache, tmp_path / "theirs", name="theirs")
    answer = push(out, TO, dry_run=True)
    text = answer["card"]
    assert "no health rule checked their training: theirs/seed-0" in text
    assert "Trained by others, under their licence: saelens: theirs." in text
    assert line(text, "| training") == "| training | unknown number of tokens |"
    assert line(text, "| seeds") == "| seeds | unknown |"
    assert "- training settings unknown" in text
    assert [entry.split(": ")[1] for entry in answer["local_paths"]] == ["path", "cache"]


def test_an_sae_on_a_branch_is_loaded_from_a_snapshot(runs: list[Path]) -> None:
    text = page(runs[0], f"{TO}@later/study")
    assert "SAE.from_pretrained" not in text
    assert 'snapshot_download("org/name", revision="later", allow_patterns="study/one/seed-0/sae/*")' in text
    assert "saepipe pull hf://org/name@later/study/one/seed-0 --out one/seed-0" in text


def test_the_card_of_a_transcoder(tmp_path: Path) -> None:
    """It says what is read and what is reconstructed; SAELens is mentioned only if it has a class."""
    rows = {hook: structured_rows(300, width) for hook, width in zip(TRANSCODER_HOOKS, (12, 10), strict=True)}
    cache = write_cache(tmp_path / "cache", rows)
    for name, known in (("relu", True), ("topk", False)):
        text = page(random_transcoder(tmp_path / name, name, cache, skip=True))
        assert "`blocks.1.hook_mlp_in -> blocks.1.hook_mlp_out`" in text
        assert "at `blocks.1.hook_mlp_in`, `(..., 12)`, to those at `blocks.1.hook_mlp_out`, `(..., 10)`." in text
        assert ("In SAELens" in text) == known


def test_another_cache_is_refused(runs: list[Path], tiny_cache: Path) -> None:
    with pytest.raises(ConfigError, match="one/seed-0 was made from"):
        page(runs[0], cache=tiny_cache)


@pytest.mark.parametrize("family", [Penalty, Architecture, Transform])
def test_every_component_has_a_description_and_a_formula(family: type[Component]) -> None:
    import_members(family.package)
    ours = {name: member for name, member in family.members.items() if member.__module__.startswith("saepipe.")}
    assert len(ours) > 2  # other tests may have left plugins beside them
    for name, member in ours.items():
        description, formula = description_and_formula(member.model_construct())
        assert min(len(description), len(formula)) > 15, name
        assert not (description + formula).endswith(":"), name

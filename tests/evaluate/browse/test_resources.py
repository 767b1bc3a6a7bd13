"""Resources compared with their store, and names that do not exist."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.runs_to_browse import D_SAE, rewritten, write_runs
from saepipe.data.folders import artifact
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.run import open_runs
from saepipe.evaluate.features.store import RUN_PATH

pytestmark = pytest.mark.quick


def load(resources: Resources, name: str) -> Any:
    data = resources.get(name)
    assert data is not None, name
    return json.loads(data)


def test_runs(resources: Resources) -> None:
    about = load(resources, "runs")["runs"]
    assert [run["label"] for run in about] == ["topk/seed-0", "topk_orthogonal/seed-0", "jumprelu/seed-0"]
    assert all(run["d_sae"] == D_SAE and run["hook"] == "blocks.1.hook_resid_post" for run in about)


def test_columns(resources: Resources) -> None:
    columns = load(resources, "1/columns")
    expected = resources.runs[1].store.columns
    assert columns.keys() == expected.keys()
    for key, packed in columns.items():
        column = np.frombuffer(base64.b64decode(packed), "<f4")
        np.testing.assert_array_equal(column, expected[key].astype(np.float32))


def test_tokens_of_all_latents(resources: Resources) -> None:
    store = resources.runs[2].store
    assert load(resources, "2/tokens/0") == [store.top_tokens(latent) for latent in range(D_SAE)]


def test_one_latent(resources: Resources) -> None:
    plain, latent = load(resources, "0/latent/7"), resources.runs[0].store.latent(7)
    for key in ("num_active", "density", "mean_act", "max_act"):
        assert plain[key] == getattr(latent, key)
    assert [example["tokens"] for example in plain["examples"]] == [example.tokens for example in latent.examples]
    for shown, example in zip(plain["examples"], latent.examples, strict=True):
        assert [act is None for act in shown["acts"]] == [act is None for act in example.acts]
        pairs = [(act, its) for act, its in zip(shown["acts"], example.acts, strict=True) if its is not None]
        np.testing.assert_allclose(*zip(*pairs, strict=True), rtol=1e-3)
        assert (shown["group"], shown["start"], shown["peak"]) == (example.group, example.start, example.peak)
    assert [latent for latent, _ in plain["neighbours"]] == [index for index, _ in latent.neighbours]
    assert [token for token, _ in plain["positive_logits"]] == [token for token, _ in latent.positive_logits or []]


def test_a_dead_latent_has_no_mean_or_largest_activation(resources: Resources) -> None:
    dead = load(resources, "0/latent/9")
    assert (dead["density"], dead["num_active"], dead["examples"]) == (0, 0, [])
    assert dead["mean_act"] is None
    assert dead["max_act"] is None


def test_roles_by_latent(resources: Resources) -> None:
    assert load(resources, "0/roles") == {
        "5": [
            {
                "text": 'the latent for words that begin with "k" (F1 0.90)',
                "about": ["absorption", "split", "k"],
                "named": True,
            }
        ],
        "6": [{"text": 'absorbs "k" on 2 words', "about": ["absorption", "absorbs", "k"], "named": True}],
        "7": [
            {
                "text": 'the latent for words that begin with "q" (F1 0.30)',
                "about": ["absorption", "split", "q"],
                "named": False,
            }
        ],
    }
    assert load(resources, "1/roles") == {}


def test_counterparts_by_decoder_by_brute_force(resources: Resources) -> None:
    ours, theirs = (np.array(run.store.decoder, np.float64) for run in (resources.runs[0], resources.runs[2]))
    cosine = ours @ theirs.T
    for latent in range(0, D_SAE, 7):
        same = load(resources, f"0/match/1/{latent}")["decoder"]
        assert (same["latent"], same["cosine"]) == (latent, 1.0)
        match = load(resources, f"0/match/2/{latent}")
        assert match["decoder"]["latent"] == cosine[latent].argmax()
        assert match["decoder"]["cosine"] == pytest.approx(cosine[latent].max(), abs=1e-4)
        if match["firing"]["latent"] is not None:
            assert match["firing"]["cosine"] == pytest.approx(cosine[latent, match["firing"]["latent"]], abs=1e-4)


def test_the_same_firings_make_a_counterpart(resources: Resources) -> None:
    match = load(resources, "0/match/1/5")
    assert match["tokens"] == 400
    assert match["firing"] == match["decoder"] == {"latent": 5, "cosine": 1.0, "jaccard": 1.0, "correlation": 1.0}
    dead = load(resources, "0/match/1/9")
    assert dead["firing"] == {"latent": None, "reason": "no latent there is active on any of the tokens on which it is"}
    assert dead["decoder"]["jaccard"] == 0


def test_runs_of_other_hooks_or_models_have_no_counterparts_by_decoder(tmp_path: Path) -> None:
    first, second, third = write_runs(tmp_path)
    rewritten(second, hook="blocks.2.hook_resid_post")
    rewritten(third, model={"id": "gpt2"}, cache="another")
    resources = open_runs([first, second, third])
    hook = load(resources, "0/match/1/0")
    assert hook["decoder"] == {"latent": None, "reason": "it belongs to another hook, blocks.2.hook_resid_post"}
    assert hook["firing"] == {"latent": 0, "cosine": None, "jaccard": 1.0, "correlation": 1.0}
    model = load(resources, "0/match/2/0")
    assert model["decoder"] == {"latent": None, "reason": "it belongs to another model, gpt2"}
    assert model["firing"] == {"latent": None, "reason": "the two feature stores are of different tokens"}
    assert next(map(json.loads, resources.matches(*resources.runs[:2]))) == hook


def test_a_store_of_the_first_format_has_no_counterparts_by_firing(tmp_path: Path) -> None:
    first, second = write_runs(tmp_path)[:2]
    rewritten(second, firing_share=None, format_version=1)
    match = load(open_runs([first, second]), "0/match/1/3")
    assert match["decoder"] == {"latent": 3, "cosine": 1.0, "jaccard": None, "correlation": None}
    assert "topk_orthogonal/seed-0 has no firings; saepipe evaluate" in match["firing"]["reason"]


def test_a_store_without_its_run_has_everything_but_decoders(tmp_path: Path) -> None:
    first, second = write_runs(tmp_path)[:2]
    (second / "features").rename(tmp_path / "features")
    artifact.write_file(tmp_path / "features" / RUN_PATH, str(tmp_path / "gone").encode())
    resources = open_runs([first, tmp_path / "features"])
    resources.warm()
    match = load(resources, "0/match/1/0")
    assert "is not at" in match["decoder"]["reason"]
    assert match["firing"]["latent"] == 0
    assert next(resources.matches(*resources.runs)) == resources.get("0/match/1/0")
    assert load(resources, "1/latent/0")["num_active"] > 0


INVALID = (
    "", "0", "run", "runs/", "/runs", "3/columns", "0/columns/", "0/columns/0", "0/secrets", "0/tokens", "0/tokens/1",
    "0/latent", f"0/latent/{D_SAE}", "0/latent/-1", "0/latent/1/2", "0/latent/1.5", "0/latent/ 1", "0/latent/1\n",
    "0/latent/" + 5000 * "9", "\u0660/columns", "0/match/3/0", f"0/match/1/{D_SAE}", "0/match/1", "../runs",
    "0/../runs", "0/latent/..%2f..%2fnotes.json", "-1/columns", "0/notes/0",
)  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_other_names_do_not_exist(resources: Resources, name: str) -> None:
    assert resources.get(name) is None
    assert name == "0/notes/0" or resources.note_of(name) is None

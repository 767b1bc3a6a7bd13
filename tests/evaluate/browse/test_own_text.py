"""Texts of one's own, read with the embedded model and an SAE of its width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from helpers.runs_to_browse import rewritten, write_runs
from helpers.site import Site, heading
from saepipe.data.errors import ConfigError
from saepipe.evaluate.browse.own_text import OwnText, open_model
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.run import browse, open_runs
from saepipe.evaluate.browse.server import MAX_TEXT, application
from saepipe.train.rundir.load import load

HOME, TEXT = "http://127.0.0.1:8123", "The nurse is in Paris."
WRITES = {"origin": HOME, "content-type": "application/json"}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    run, other = write_runs(tmp_path_factory.mktemp("own"), d_in=128)[:2]
    rewritten(other, model={"id": "gpt2", "class": "GPT2LMHeadModel"})
    return open_runs([run, other])


@pytest.fixture(scope="module")
def own(toy: Resources) -> OwnText:
    return open_model("auto", toy.runs)


def test_latents_and_acts_are_those_of_the_model_and_the_sae(toy: Resources, own: OwnText) -> None:
    answer = own.read(toy.runs[0], TEXT)
    assert answer["tokens"][0] == "<bos>"
    assert "".join(answer["tokens"][1:]) == TEXT
    assert answer["known"] == [False] + [True] * (len(answer["tokens"]) - 1)
    model = own._model
    ids = torch.tensor([[model.bos_id, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]])
    x = model.model.model(ids, output_hidden_states=True).hidden_states[2][0].bfloat16()
    acts = load(toy.runs[0].store.run_folder()).encode(x)
    assert answer["latents"]
    for found in answer["latents"]:
        expected = acts[:, found["latent"]].clone()
        expected[0] = 0
        torch.testing.assert_close(torch.tensor(found["acts"]), expected, rtol=2e-3, atol=1e-5)
    shares = [max(found["acts"]) / found["max_act"] for found in answer["latents"]]
    assert all(0 < share <= 1.001 for share in shares)


def test_a_text_longer_than_a_context_is_cut(toy: Resources, own: OwnText) -> None:
    answer = own.read(toy.runs[0], TEXT * 40)
    assert len(answer["tokens"]) == 64
    assert answer["cut"] > 100


def test_a_run_of_another_model_is_refused(toy: Resources, own: OwnText) -> None:
    with pytest.raises(ConfigError, match="its cache was made by a GPT2LMHeadModel"):
        own.read(toy.runs[1], TEXT)
    with pytest.raises(ConfigError, match="--model toy: toy is a Gemma2ForCausalLM"):
        open_model("toy", [toy.runs[1]])


def test_files_take_no_model(toy: Resources, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="static files cannot read texts"):
        browse([toy.runs[0].store.run_folder()], static=tmp_path / "site", model="auto")


def client_of(toy: Resources, own: OwnText | None) -> TestClient:
    client = TestClient(application(toy, "t" * 43, 8123, own.read if own else None), base_url=HOME)
    client.get("/", params={"token": "t" * 43})
    return client


def test_the_server_reads_texts_of_its_own_page_alone(toy: Resources, own: OwnText) -> None:
    client = client_of(toy, own)
    assert client.put("/text/0", json={"text": TEXT}, headers=WRITES).json() == own.read(toy.runs[0], TEXT)
    refused = client.put("/text/1", json={"text": TEXT}, headers=WRITES)
    assert (refused.status_code, "topk_orthogonal/seed-0 cannot read texts" in refused.text) == (409, True)
    assert client.put("/text/0", json={"text": TEXT}).status_code == 403
    assert (
        client.put("/text/0", json={"text": TEXT}, headers=WRITES | {"origin": "http://evil.example"}).status_code
        == 403
    )
    assert client.put("/text/0", json={"text": "x" * (MAX_TEXT + 1)}, headers=WRITES).status_code == 400
    for run in ("2", "-1", "0x", "00"):
        assert client.put(f"/text/{run}", json={"text": TEXT}, headers=WRITES).status_code == 404
    assert client_of(toy, None).put("/text/0", json={"text": TEXT}, headers=WRITES).status_code == 404


def test_without_a_model_the_page_says_what_to_do(site: Site) -> None:
    page = site.open("#run=topk/seed-0")
    page.get_by_role("button", name="Own text").click()
    heading(page, "Your own text")
    told = page.inner_text(".told")
    assert "saepipe browse" in told
    assert "--model auto" in told
    assert ("files" in told) == (site.kind == "files")

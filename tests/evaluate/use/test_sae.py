"""Loading an SAE as users do: its settings, its device, and both kinds of folders on a hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from helpers.local_hub import Hub, Repo, serve
from saepipe.data.errors import ConfigError, CorruptDataError, RemoteError
from saepipe.evaluate.use.finished_run import open_run
from saepipe.evaluate.use.sae import SAE, load


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Serves an empty hub, which a user reaches by HF_ENDPOINT, and gives the client a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with serve(Hub({})) as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield served


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and "log" not in path.parts]
    return {f"{prefix}{path.relative_to(folder)}": path.read_bytes() for path in paths}


def same(left: SAE, right: SAE) -> bool:
    x = torch.randn(5, left.d_in, generator=torch.Generator().manual_seed(0))
    return torch.equal(left.encode(x), right.encode(x))


def test_settings_and_device(toy_sae: SAE, toy_run: Path) -> None:
    assert toy_sae.device == torch.device("cpu")
    assert toy_sae.cfg["metadata"]["model_name"] == "toy"
    cfg = {key: value for key, value in toy_sae.cfg.items() if key != "metadata"}
    hook = "blocks.2.hook_resid_post"
    assert cfg == {"architecture": "topk", "d_in": 128, "d_sae": 128, "k": 8, "hook": hook}
    assert toy_sae.to("meta").device.type == "meta"
    for source in (str(toy_run), open_run(toy_run), toy_run / "sae"):
        assert isinstance(load(source), SAE)


def test_a_run_on_a_hub(hub: Hub, toy_run: Path, toy_sae: SAE) -> None:
    hub.repos["models/org/name"] = Repo([files_of(toy_run, "base/seed-0/")], tags={"v1": 0})
    for address in ("hf://org/name", "hf://org/name@v1/base", "hf://org/name/base/seed-0/sae"):
        assert same(load(address), toy_sae)
    assert hub.fetched("resolve") == {"COMMITTED", "manifest.jsonl", "cfg.json", "sae_weights.safetensors"}
    fetched = sum("/resolve/" in line and line.startswith("GET") for line in hub.requests)
    load("hf://org/name")
    assert sum("/resolve/" in line and line.startswith("GET") for line in hub.requests) == fetched


def test_a_saelens_folder_on_a_hub_and_without_a_network(
    hub: Hub, toy_run: Path, toy_sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["models/org/plain"] = Repo([files_of(toy_run / "sae")])
    assert same(load("hf://org/plain"), toy_sae)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_requests = len(hub.requests)
    assert same(load("hf://org/plain"), toy_sae)
    assert len(hub.requests) == num_requests
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE"):
        load("hf://org/other")


def test_what_is_refused(hub: Hub, toy_run: Path, tmp_path: Path) -> None:
    hub.repos["models/org/two"] = Repo([files_of(toy_run / "sae", "a/") | files_of(toy_run / "sae", "b/")])
    with pytest.raises(ConfigError, match="holds 2 SAEs:\n  hf://org/two/a\n  hf://org/two/b"):
        load("hf://org/two")
    with pytest.raises(ConfigError, match=r"hf://org/two/c holds no cfg.json"):
        load("hf://org/two/c")
    with pytest.raises(RemoteError, match="does not exist"):
        load("hf://org/none")
    changed = Path(shutil.copytree(toy_run, tmp_path / "changed"))
    weights = changed / "sae" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    hub.repos["models/org/changed"] = Repo([files_of(changed)])
    with pytest.raises(CorruptDataError, match="safetensors of hf://org/changed is not what its seal"):
        load("hf://org/changed")

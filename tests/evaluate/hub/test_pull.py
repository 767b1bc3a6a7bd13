"""Pulling a run: it equals the run that was pushed, or nothing is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants

from helpers.local_hub import Hub, Repo, serve
from helpers.object_storage import ObjectStorage
from saepipe.data.errors import ConfigError, CorruptDataError, RemoteError
from saepipe.data.folders import artifact
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.hub.pull import pull
from saepipe.evaluate.hub.push import push
from saepipe.evaluate.plan import plan
from saepipe.evaluate.results.run_results import read_row
from saepipe.evaluate.run import evaluate
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load

TO = "hf://org/name"
ONE = "one/seed-0"


@pytest.fixture
def pushed(hub: Hub, api: HfApi, runs: list[Path]) -> dict[str, bytes]:
    """Pushes both runs and returns the files of the last commit, which a test may change."""
    push(runs, TO, api=api)
    files = dict(hub.repo("models/org/name").files())
    hub.repo("models/org/name").commits.append(files)
    return files


def content(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_pulled_run_equals_the_pushed_one(
    pushed: dict[str, bytes], api: HfApi, runs: list[Path], toy_cache: Path, tmp_path: Path
) -> None:
    out = pull(f"{TO}/{ONE}", tmp_path / "got" / "it", toy_cache, api=api)
    ours, theirs = open_run(runs[0]), open_run(out)
    assert (theirs.fingerprint, theirs.run_id, theirs.variant) == (ours.fingerprint, ours.run_id, "one")
    sent = {name.removeprefix(f"{ONE}/"): data for name, data in pushed.items() if name.startswith(ONE)}
    assert content(out) == sent
    assert {name: content(runs[0])[name] for name in sent} == sent
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(out)(x), load(runs[0])(x))
    assert read_row(theirs).cells == read_row(ours).cells
    assert [path.name for path in out.parent.iterdir()] == ["it"]


def test_a_run_is_pulled_into_a_bucket(
    pushed: dict[str, bytes], api: HfApi, runs: list[Path], object_storage: ObjectStorage
) -> None:
    for _ in range(2):
        pull(f"{TO}/{ONE}", object_storage.at("it"), api=api)
        sent = {name.removeprefix(f"{ONE}/"): data for name, data in pushed.items() if name.startswith(ONE)}
        assert object_storage.contents("it") == sent
        object_storage.other_machine()
    assert open_run(object_storage.at("it")).fingerprint == open_run(runs[0]).fingerprint


def test_a_pulled_run_has_valid_results_and_can_be_evaluated_again(
    pushed: dict[str, bytes], api: HfApi, toy_cache: Path, tmp_path: Path
) -> None:
    out = pull(f"{TO}/{ONE}", tmp_path / "got", api=api)
    settings = {"device": "cpu", "cache": str(toy_cache), "metrics": [{"name": "core", "num_contexts": 4}]}
    assert plan([out], EvaluateConfig.parse(settings))["measure"] == []
    before = json.loads((out / "eval" / "core.json").read_text())["eval_result_metrics"]
    (out / "eval" / "core.json").unlink()
    (result,) = evaluate([out], EvaluateConfig.parse(settings))
    assert json.loads(result.read_text())["eval_result_metrics"] == before


def test_an_existing_run_is_kept_and_another_is_refused(
    hub: Hub, pushed: dict[str, bytes], api: HfApi, tmp_path: Path
) -> None:
    out = pull(f"{TO}/{ONE}", tmp_path / "got", api=api)
    hub.requests.clear()
    assert pull(f"{TO}/{ONE}", out, api=api) == out
    assert hub.fetched("resolve") == {"COMMITTED"}
    before = content(out)
    with pytest.raises(ConfigError, match="holds something other than hf://org/name/two/seed-0"):
        pull(f"{TO}/two", out, api=api)
    assert content(out) == before
    (out / "health.json").write_text("{}")
    with pytest.raises(CorruptDataError, match="health.json"):
        pull(f"{TO}/{ONE}", out, api=api)


def test_revisions(hub: Hub, api: HfApi, runs: list[Path], tmp_path: Path) -> None:
    push(runs[0], f"{TO}@later", api=api)
    commit = hub.repo("models/org/name").sha("later")
    for revision in ("later", commit):
        out = pull(f"{TO}@{revision}", tmp_path / revision, api=api)
        assert open_run(out).fingerprint == open_run(runs[0]).fingerprint
    with pytest.raises(ConfigError, match="hf://org/name holds no run"):
        pull(TO, tmp_path / "main", api=api)
    with pytest.raises(RemoteError, match="cannot get the model repository 'org/name' at 'v9' .* no such revision"):
        pull(f"{TO}@v9", tmp_path / "v9", api=api)


def test_a_single_run_is_found_and_several_are_listed(pushed: dict[str, bytes], api: HfApi, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"holds 2 runs:\n  {TO}/one/seed-0\n  {TO}/two/seed-0"):
        pull(TO, tmp_path / "got", api=api)
    assert open_run(pull(f"{TO}/two", tmp_path / "got", api=api)).variant == "two"
    for name in [name for name in pushed if name.startswith("one/")]:
        del pushed[name]
    assert open_run(pull(TO, tmp_path / "alone", api=api)).variant == "two"
    with pytest.raises(ConfigError, match="hf://org/name/tw holds no run"):
        pull(f"{TO}/tw", tmp_path / "none", api=api)


def test_a_run_at_the_root(hub: Hub, pushed: dict[str, bytes], api: HfApi, tmp_path: Path) -> None:
    root = {name.removeprefix(f"{ONE}/"): data for name, data in pushed.items() if not name.startswith("two")}
    hub.repos["models/org/root"] = Repo([root])
    out = pull("hf://org/root", tmp_path / "got", api=api)
    assert content(out).keys() == root.keys() - {".gitattributes"}


def test_a_folder_is_not_a_pattern(api: HfApi, runs: list[Path], tmp_path: Path) -> None:
    push(runs[0], f"{TO}/a[1]*", api=api)
    push(runs[1], f"{TO}/a1x", api=api)
    assert open_run(pull(f"{TO}/a[1]*", tmp_path / "got", api=api)).variant == "one"


def test_a_saelens_folder_is_recognised(hub: Hub, api: HfApi, runs: list[Path], tmp_path: Path) -> None:
    sae = {f"layer_1/{path.name}": path.read_bytes() for path in (runs[0] / "sae").iterdir()}
    hub.repos["models/org/saes"] = Repo([sae])
    with pytest.raises(ConfigError, match="is a SAELens folder, not a run") as caught:
        pull("hf://org/saes", tmp_path / "got", api=api)
    assert "saepipe import FOLDER --from saelens" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["penalty.py", "state.pkl", "sae/ae.pt", "eval/run.sh", "no-suffix"])
def test_other_kinds_of_file_are_refused_before_the_download(
    hub: Hub, pushed: dict[str, bytes], api: HfApi, tmp_path: Path, name: str
) -> None:
    pushed[f"{ONE}/{name}"] = b"x"
    hub.requests.clear()
    with pytest.raises(CorruptDataError, match=f"{TO}/{ONE} has files of other kinds: {ONE}/{name}"):
        pull(f"{TO}/{ONE}", tmp_path / "got", api=api)
    assert not hub.fetched("resolve")
    assert pull(f"{TO}/two", tmp_path / "got", api=api)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("sae/sae_weights.safetensors", None, "sae_weights.safetensors is missing"),
        ("health.json", b"{}", "health.json has 2 bytes"),
        ("manifest.jsonl", b'{"kind": "run"}\n', "was changed after pulled run"),
        ("COMMITTED", b"0" * 64, "was changed after pulled run"),
    ],
)
def test_a_changed_run_is_refused(
    pushed: dict[str, bytes], api: HfApi, tmp_path: Path, name: str, data: bytes | None, says: str
) -> None:
    pushed.pop(f"{ONE}/{name}")
    if data is not None:
        pushed[f"{ONE}/{name}"] = data
    with pytest.raises(CorruptDataError, match=says) as caught:
        pull(f"{TO}/{ONE}", tmp_path / "got", api=api)
    assert f"{TO}/{ONE}" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_python_files_in_a_config_are_not_run(api: HfApi, hub: Hub, runs: list[Path], tmp_path: Path) -> None:
    """A stranger's config may name any Python file of this machine."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    config = (runs[0] / "config.yaml").read_text().replace("plugins: []", f"plugins: ['{plugin}']")
    (runs[0] / "config.yaml").write_text(config)
    header, files = artifact.read_manifest(runs[0])
    artifact.rewrite_manifest(runs[0], [header, {"files": artifact.digest_files(runs[0], files["files"])}])
    artifact.commit(runs[0])
    names = {f"{ONE}/{name}": data for name, data in content(runs[0]).items() if "sae/" in name or "/" not in name}
    hub.repos["models/org/stranger"] = Repo([{k: v for k, v in names.items() if not k.endswith(".token")}])
    with pytest.raises(
        ConfigError, match="config names Python files, which would run when the run is opened: .*plugin"
    ):
        pull("hf://org/stranger", tmp_path / "got", api=api)
    assert not (tmp_path / "it-ran").exists()
    assert not (tmp_path / "got").exists()
    run = open_run(pull("hf://org/stranger", tmp_path / "got", trust_plugins=True, api=api))
    assert not (tmp_path / "it-ran").exists()
    assert run.config.seed == run.seed  # only building the components runs their files
    assert (tmp_path / "it-ran").exists()


def test_a_seal_must_cover_the_config(pushed: dict[str, bytes], api: HfApi, runs: list[Path], tmp_path: Path) -> None:
    """Otherwise a config could be put into a run that others trust."""
    header, files = artifact.read_manifest(runs[0])
    del files["files"]["config.yaml"]
    artifact.rewrite_manifest(runs[0], [header, files])
    artifact.commit(runs[0])
    pushed |= {f"{ONE}/{name}": (runs[0] / name).read_bytes() for name in ("manifest.jsonl", "COMMITTED")}
    with pytest.raises(CorruptDataError, match="the seal does not cover config.yaml"):
        pull(f"{TO}/{ONE}", tmp_path / "got", api=api)


def test_another_cache_is_refused(pushed: dict[str, bytes], api: HfApi, tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one/seed-0 was made from"):
        pull(f"{TO}/{ONE}", tmp_path / "got", tiny_cache, api=api)
    assert not (tmp_path / "got").exists()


def test_refusals_of_the_hub(hub: Hub, pushed: dict[str, bytes], api: HfApi, tmp_path: Path) -> None:
    gated, private = Repo([pushed], gated=True), Repo([pushed], private=True)
    hub.repos |= {"models/org/gated": gated, "models/org/private": private}
    stranger = HfApi(endpoint=hub.url, token=False)
    for name, says in (("gated", "it is gated"), ("private", "does not exist"), ("none", "does not exist")):
        with pytest.raises(RemoteError, match=f"cannot get the model repository 'org/{name}' from the hub: .*{says}"):
            pull(f"hf://org/{name}/{ONE}", tmp_path / "got", api=stranger)
    assert pull(f"hf://org/private/{ONE}", tmp_path / "got", api=api)


def test_a_pull_that_fails_leaves_nothing(hub: Hub, pushed: dict[str, bytes], api: HfApi, tmp_path: Path) -> None:
    hub.broken = {"sae_weights.safetensors": 500}
    with pytest.raises(RemoteError, match="cannot get the model repository 'org/name' from the hub"):
        pull(f"{TO}/{ONE}", tmp_path / "got", api=api)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    hub.broken = {}
    assert pull(f"{TO}/{ONE}", tmp_path / "got", api=api)


def test_no_network(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Hub({})) as closed:
        pass
    with pytest.raises(RemoteError, match="(refused|connect)"):
        pull(TO, tmp_path / "got", api=HfApi(endpoint=closed.url, token=False))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set"):
        pull(TO, tmp_path / "got", api=HfApi(endpoint=hub.url, token=False))
    assert hub.requests == []

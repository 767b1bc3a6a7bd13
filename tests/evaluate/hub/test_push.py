"""Pushing runs over HTTP: files that are sent, refusals, and the state of the hub after a failure."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from helpers.local_hub import Hub, Repo, serve
from saepipe.data.errors import ConfigError, CorruptDataError, RemoteError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Finding, Health
from saepipe.data.folders.sealed_result import write_result
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.hub.push import push
from saepipe.train.rundir.sealed_log import write_seal

TO = "hf://org/name"
FILES = {"COMMITTED", "manifest.jsonl", "config.yaml", "health.json", "eval/core.json"}
FILES |= {"metrics.jsonl", "metrics.seal.json"}
FILES |= {"sae/cfg.json", "sae/sae_weights.safetensors"}


def on_hub(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.repo("models/org/name").files(revision).items() if name[0] != "."}


def test_the_files_of_a_run_are_sent_and_others_are_not(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    answer = push(runs[0], TO, api=api)
    files = on_hub(hub)
    assert files.keys() == {"README.md", *(f"one/seed-0/{name}" for name in FILES)}
    assert {name: len(data) for name, data in files.items()} == answer["files"]
    assert answer["bytes"] == sum(map(len, files.values()))
    for name in FILES:
        assert files[f"one/seed-0/{name}"] == (runs[0] / name).read_bytes()
    assert files["README.md"].decode() == answer["card"]
    assert list(hub.objects.values()) == [(runs[0] / "sae/sae_weights.safetensors").read_bytes()]
    assert (answer["commit"], answer["changed"]) == (hub.repo("models/org/name").sha(), True)
    assert answer["url"] == f"{hub.url}/org/name"
    assert not hub.repo("models/org/name").private


def test_a_dry_run_uses_no_network_and_returns_the_same(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    dry = push(runs, TO, dry_run=True, api=api)
    assert (hub.requests, hub.repos) == ([], {})
    sent = push(runs, TO, api=api)
    assert {key: dry[key] for key in dry if key != "dry_run"} == {key: sent[key] for key in dry if key != "dry_run"}
    assert on_hub(hub).keys() == dry["files"].keys()


def test_pushing_again_changes_nothing(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    first = push(runs[0], TO, api=api)
    hub.requests.clear()
    again = push(runs[0], TO, api=api)
    assert (again["commit"], again["changed"], again["deleted"]) == (first["commit"], False, [])
    assert not [line for line in hub.requests if "/commit/" in line or line.startswith("PUT")]
    assert len(hub.repo("models/org/name").commits) == 2  # .gitattributes, then the run


def test_results_deleted_here_are_deleted_on_the_hub(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    push(runs[0], TO, api=api)
    (runs[0] / "eval" / "core.json").unlink()
    answer = push(runs[0], TO, api=api)
    assert (answer["deleted"], answer["changed"]) == (["one/seed-0/eval/core.json"], True)
    assert "one/seed-0/eval/core.json" not in on_hub(hub)


def test_results_of_another_run_are_left_out_with_a_message(runs: list[Path]) -> None:
    result = json.loads((runs[0] / "eval" / "core.json").read_text())
    result["saepipe"]["fingerprints"]["run"] = "f" * 64
    write_result(runs[0] / "eval" / "core.json", result)
    messages: list[str] = []
    answer = push(runs[0], TO, dry_run=True, progress=Recorder(messages))
    assert answer["left_out"] == ["one/seed-0/eval/core.json"]
    assert "one/seed-0/eval/core.json" not in answer["files"]
    assert any("H11" in finding for finding in answer["findings"])
    assert "It was not evaluated." in answer["card"]
    assert "left out" in messages[-1]


class Recorder(Silent):
    def __init__(self, messages: list[str]) -> None:
        self.messages = messages

    def say(self, message: str) -> None:
        self.messages.append(message)


def test_findings_are_reported_and_at_the_top_of_the_card(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    reseal(runs[0], Health((Finding("H9", "warning", "a doubt"), Finding("H9", "error", "a fault"))))
    messages: list[str] = []
    answer = push(runs[0], TO, api=api, progress=Recorder(messages))
    assert messages[0].startswith("2 HEALTH FINDINGS")
    assert answer["findings"] == [f"one/seed-0: degenerate SAE (H9): a {word}" for word in ("fault", "doubt")]
    body = on_hub(hub)["README.md"].decode().split("---\n", 2)[2]
    order = [body.index(part) for part in ("# Sparse", "[!CAUTION]", "a fault", "[!WARNING]", "a doubt", "## one")]
    assert order == sorted(order)


def reseal(run: Path, health: Health) -> None:
    """Rewrites the run as if it had been finished with this health."""
    health.write(run)
    header, files = artifact.read_manifest(run)
    artifact.rewrite_manifest(run, [header, {"files": artifact.digest_files(run, files["files"])}])
    fingerprint = artifact.commit(run)
    result = json.loads((run / "eval" / "core.json").read_text())
    result["saepipe"]["fingerprints"]["run"] = fingerprint
    write_result(run / "eval" / "core.json", result)


def test_folders_branches_and_other_runs(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    push(runs[0], TO, api=api)
    with pytest.raises(ConfigError, match="has other runs, which the new card would not cover: one/seed-0"):
        push(runs[1], TO, api=api)
    push(runs[1], f"{TO}/study", api=api)
    assert {"README.md", "study/README.md", "study/two/seed-0/COMMITTED"} <= on_hub(hub).keys()
    with pytest.raises(ConfigError, match="other runs"):
        push(runs[1], f"{TO}@later", api=api)
    assert hub.repo("models/org/name").branches == {}
    on_branch = push(runs[1], f"{TO}@later/second", api=api)
    assert on_branch["revision"] == "later"
    assert "second/two/seed-0/COMMITTED" in on_hub(hub, "later")
    assert "second/two/seed-0/COMMITTED" not in on_hub(hub)
    assert push(runs, f"{TO}/both", api=api)["changed"]
    assert on_hub(hub)["both/README.md"].decode().count("\n## All runs\n") == 1


def test_private_repositories(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    push(runs[0], TO, private=True, api=api)
    assert hub.repo("models/org/name").private
    hub.repos["models/org/open"] = Repo([{}])
    with pytest.raises(ConfigError, match="org/open already exists and is public"):
        push(runs[0], "hf://org/open", private=True, api=api)
    assert hub.repo("models/org/open").files() == {}


def test_local_paths_are_listed_and_need_permission(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    lines = (runs[0] / "metrics.jsonl").read_text()
    (runs[0] / "metrics.jsonl").write_text(
        lines + '{"from": "/home/somebody/caches/x", "at": "C:\\\\caches", "a/b": 1}\n'
    )
    write_seal(runs[0])
    paths = [f"one/seed-0/metrics.jsonl: {line}" for line in ("from: /home/somebody/caches/x", "at: C:\\caches")]
    assert push(runs[0], TO, dry_run=True)["local_paths"] == paths
    with pytest.raises(ConfigError, match="contain local paths of this machine:\n.*/home/somebody"):
        push(runs[0], TO, api=api)
    assert hub.requests == []
    assert push(runs[0], TO, api=api, local_paths=True)["changed"]


def test_the_home_directory_in_a_sentence_is_a_local_path(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/ada")
    (runs[0] / "metrics.jsonl").write_text('{"said": "see /users/ada/x, please", "other": "/users"}\n')
    write_seal(runs[0])
    paths = push(runs[0], TO, dry_run=True)["local_paths"]
    assert paths == ["one/seed-0/metrics.jsonl: said: see /users/ada/x, please"]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("org/name", "Must start with 'hf://'"),
        ("hf://name", "must be 'namespace/name'"),
        ("hf://org/na--me", "hf://org/na--me"),
        ("hf://datasets/org/name", "is a dataset, not a model repository"),
        ("hf://org/name/folder@branch", "the revision must come before the folder"),
        ("hf://org/name/../other", "is not a folder of a repository"),
    ],
)
def test_invalid_addresses(runs: list[Path], to: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        push(runs[0], to, dry_run=True)


def test_runs_that_cannot_be_pushed(runs: list[Path], tmp_path: Path, toy_cache: Path) -> None:
    with pytest.raises(ConfigError, match="no run to push"):
        push([], TO, dry_run=True)
    with pytest.raises(ConfigError, match="two runs are called one/seed-0"):
        push([runs[0], shutil.copytree(runs[0], tmp_path / "copy" / "seed-0")], TO, dry_run=True)
    with pytest.raises(CorruptDataError, match="not a run"):
        push(toy_cache, TO, dry_run=True)
    weights = runs[0] / "sae" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CorruptDataError, match="other content"):
        push(runs[0], TO, dry_run=True)


def test_a_failed_push_leaves_nothing(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    before = {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()}
    for where in ("POST /api/models/org/name/preupload", "PUT /lfs/", "POST /api/models/org/name/commit"):
        hub.broken = {where: 500}
        with pytest.raises(RemoteError, match="cannot write the model repository 'org/name' on the hub"):
            push(runs[0], TO, api=api)
        assert on_hub(hub) == {}
    assert {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()} == before
    hub.broken = {}
    assert push(runs[0], TO, api=api)["changed"]


@pytest.mark.parametrize(
    ("token", "repos", "to", "says", "advises"),
    [
        (False, {}, TO, "you are not logged in", "auth login"),
        ("another", {}, TO, "this user or token lacks permission", "token that has permission"),
        (False, {"models/org/name": Repo([{}])}, TO, "not logged in|does not exist", "auth login"),
        ("another", {"models/org/name": Repo([{}])}, TO, "lacks permission", "token that has permission"),
    ],
)
def test_without_permission(
    hub: Hub, runs: list[Path], token: str | bool, repos: dict[str, Repo], to: str, says: str, advises: str
) -> None:
    hub.repos |= repos
    with pytest.raises(RemoteError, match=says) as caught:
        push(runs[0], to, api=HfApi(endpoint=hub.url, token=token))
    assert advises in str(caught.value.hint)


def test_a_concurrent_change_is_not_overwritten(
    hub: Hub, api: HfApi, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(runs[0], TO, api=api)
    repo, preupload = hub.repo("models/org/name"), api.preupload_lfs_files

    def meanwhile(*args: object, **settings: object) -> None:
        repo.add("main", {**repo.files(), "other": b""})
        preupload(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "preupload_lfs_files", meanwhile)
    (runs[0] / "metrics.jsonl").write_text("")
    write_seal(runs[0])
    with pytest.raises(RemoteError, match="somebody else changed it in the meantime"):
        push(runs[0], TO, api=api)
    assert on_hub(hub)["one/seed-0/metrics.jsonl"] != b""


def test_files_that_the_hub_ignores_are_reported(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    hub.repos["models/org/name"] = Repo([{".gitignore": b"metrics.jsonl\n"}])
    with pytest.raises(RemoteError, match="left out one/seed-0/metrics.jsonl"):
        push(runs[0], TO, api=api)


def test_an_unknown_licence_is_refused(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match='rejects the card: .*\n.*"license" must be one of'):
        push(runs[0], TO, licence="wrong", api=api)


def test_no_network(hub: Hub, runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Hub({})) as closed:
        pass
    with pytest.raises(RemoteError, match="cannot write the model repository .*(refused|connect)"):
        push(runs[0], TO, api=HfApi(endpoint=closed.url, token="any"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set") as caught:
        push(runs[0], TO, api=HfApi(endpoint=hub.url, token="any"))
    assert caught.value.hint == "unset it; a dry run needs no network"
    assert hub.requests == []
    assert push(runs[0], TO, dry_run=True)["files"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.seal.json"])
def test_a_damaged_log_is_not_pushed(runs: list[Path], name: str) -> None:
    (runs[0] / name).write_text("")
    with pytest.raises(CorruptDataError, match=name):
        push(runs[0], TO, dry_run=True)

"""Runs sent to a hub over HTTP: what goes, what stays, what is refused, and what is there when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from helpers.local_hub import Hub, Repo, serve
from saepipe.data.errors import ConfigError, CorruptDataError, RemoteError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Finding, Health
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.hub.push import push

TO = "hf://org/name"
FILES = {"COMMITTED", "manifest.jsonl", "config.yaml", "health.json", "metrics.jsonl", "eval/core.json"}
FILES |= {"sae/cfg.json", "sae/sae_weights.safetensors"}


def there(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    return {name: data for name, data in hub.repo("models/org/name").files(revision).items() if name[0] != "."}


def test_what_goes_and_what_stays(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    answer = push(runs[0], TO, api=api)
    found = there(hub)
    assert found.keys() == {"README.md", *(f"one/seed-0/{name}" for name in FILES)}
    assert {name: len(data) for name, data in found.items()} == answer["files"]
    assert answer["bytes"] == sum(map(len, found.values()))
    for name in FILES:
        assert found[f"one/seed-0/{name}"] == (runs[0] / name).read_bytes()
    assert found["README.md"].decode() == answer["card"]
    assert list(hub.objects.values()) == [(runs[0] / "sae/sae_weights.safetensors").read_bytes()]
    assert (answer["commit"], answer["changed"]) == (hub.repo("models/org/name").sha(), True)
    assert answer["url"] == f"{hub.url}/org/name"
    assert not hub.repo("models/org/name").private


def test_a_dry_run_asks_nothing_and_says_the_same(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    dry = push(runs, TO, dry_run=True, api=api)
    assert (hub.requests, hub.repos) == ([], {})
    sent = push(runs, TO, api=api)
    assert {key: dry[key] for key in dry if key != "dry_run"} == {key: sent[key] for key in dry if key != "dry_run"}
    assert there(hub).keys() == dry["files"].keys()


def test_the_same_again_is_nothing_new(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    first = push(runs[0], TO, api=api)
    hub.requests.clear()
    again = push(runs[0], TO, api=api)
    assert (again["commit"], again["changed"], again["deleted"]) == (first["commit"], False, [])
    assert not [line for line in hub.requests if "/commit/" in line or line.startswith("PUT")]
    assert len(hub.repo("models/org/name").commits) == 2  # .gitattributes, then the run


def test_results_that_are_gone_here_go_there(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    push(runs[0], TO, api=api)
    (runs[0] / "eval" / "core.json").unlink()
    answer = push(runs[0], TO, api=api)
    assert (answer["deleted"], answer["changed"]) == (["one/seed-0/eval/core.json"], True)
    assert "one/seed-0/eval/core.json" not in there(hub)


def test_results_of_another_run_are_left_out_and_told(runs: list[Path]) -> None:
    result = json.loads((runs[0] / "eval" / "core.json").read_text())
    result["saepipe"]["fingerprints"]["run"] = "f" * 64
    (runs[0] / "eval" / "core.json").write_text(json.dumps(result))
    told: list[str] = []
    answer = push(runs[0], TO, dry_run=True, progress=Telling(told))
    assert answer["left_out"] == ["one/seed-0/eval/core.json"]
    assert "one/seed-0/eval/core.json" not in answer["files"]
    assert any("H11" in finding for finding in answer["findings"])
    assert "It was not evaluated." in answer["card"]
    assert "left out" in told[-1]


class Telling(Silent):
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def say(self, message: str) -> None:
        self.told.append(message)


def test_findings_are_told_loudly_and_lead_the_card(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    reseal(runs[0], Health((Finding("H9", "warning", "a doubt"), Finding("H9", "error", "a fault"))))
    told: list[str] = []
    answer = push(runs[0], TO, api=api, progress=Telling(told))
    assert told[0].startswith("2 FINDINGS OF HEALTH")
    assert answer["findings"] == [f"one/seed-0: degenerate SAE (H9): a {what}" for what in ("fault", "doubt")]
    body = there(hub)["README.md"].decode().split("---\n", 2)[2]
    order = [body.index(part) for part in ("# A sparse", "[!CAUTION]", "a fault", "[!WARNING]", "a doubt", "## one")]
    assert order == sorted(order)


def reseal(run: Path, health: Health) -> None:
    """As if the run had been finished with this health."""
    health.write(run)
    header, files = artifact.read_manifest(run)
    artifact.rewrite_manifest(run, [header, {"files": artifact.digest_files(run, files["files"])}])
    fingerprint = artifact.commit(run)
    result = json.loads((run / "eval" / "core.json").read_text())
    result["saepipe"]["fingerprints"]["run"] = fingerprint
    artifact.write_json(run / "eval" / "core.json", result)


def test_folders_branches_and_other_runs(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    push(runs[0], TO, api=api)
    with pytest.raises(ConfigError, match="holds other runs, of which the card would no longer tell: one/seed-0"):
        push(runs[1], TO, api=api)
    push(runs[1], f"{TO}/study", api=api)
    assert {"README.md", "study/README.md", "study/two/seed-0/COMMITTED"} <= there(hub).keys()
    with pytest.raises(ConfigError, match="other runs"):
        push(runs[1], f"{TO}@later", api=api)
    assert hub.repo("models/org/name").branches == {}
    on_branch = push(runs[1], f"{TO}@later/second", api=api)
    assert on_branch["revision"] == "later"
    assert "second/two/seed-0/COMMITTED" in there(hub, "later")
    assert "second/two/seed-0/COMMITTED" not in there(hub)
    assert push(runs, f"{TO}/both", api=api)["changed"]
    assert there(hub)["both/README.md"].decode().count("\n## All runs\n") == 1


def test_private_means_private(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    push(runs[0], TO, private=True, api=api)
    assert hub.repo("models/org/name").private
    hub.repos["models/org/open"] = Repo([{}])
    with pytest.raises(ConfigError, match="org/open is there already, and public"):
        push(runs[0], "hf://org/open", private=True, api=api)
    assert hub.repo("models/org/open").files() == {}


def test_local_paths_are_told_and_need_a_word(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    lines = (runs[0] / "metrics.jsonl").read_text()
    (runs[0] / "metrics.jsonl").write_text(
        lines + '{"from": "/home/somebody/caches/x", "at": "C:\\\\caches", "a/b": 1}\n'
    )
    told = [f"one/seed-0/metrics.jsonl: {line}" for line in ("from: /home/somebody/caches/x", "at: C:\\caches")]
    assert push(runs[0], TO, dry_run=True)["local_paths"] == told
    with pytest.raises(ConfigError, match="where things lie on this machine:\n.*/home/somebody"):
        push(runs[0], TO, api=api)
    assert hub.requests == []
    assert push(runs[0], TO, api=api, local_paths=True)["changed"]


def test_the_home_directory_in_a_sentence_is_a_local_path(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/ada")
    (runs[0] / "metrics.jsonl").write_text('{"said": "see /users/ada/x, please", "other": "/users"}\n')
    told = push(runs[0], TO, dry_run=True)["local_paths"]
    assert told == ["one/seed-0/metrics.jsonl: said: see /users/ada/x, please"]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("org/name", "Must start with 'hf://'"),
        ("hf://name", "must be 'namespace/name'"),
        ("hf://org/na--me", "hf://org/na--me"),
        ("hf://datasets/org/name", "is a dataset, not a model repository"),
        ("hf://org/name/folder@branch", "the revision comes before the folder"),
        ("hf://org/name/../other", "is no folder of a repository"),
    ],
)
def test_addresses_that_are_none(runs: list[Path], to: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        push(runs[0], to, dry_run=True)


def test_runs_that_cannot_be_pushed(runs: list[Path], tmp_path: Path, toy_cache: Path) -> None:
    with pytest.raises(ConfigError, match="no run to push"):
        push([], TO, dry_run=True)
    with pytest.raises(ConfigError, match="two runs are called one/seed-0"):
        push([runs[0], runs[0]], TO, dry_run=True)
    with pytest.raises(CorruptDataError, match="not a run"):
        push(toy_cache, TO, dry_run=True)
    weights = runs[0] / "sae" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(CorruptDataError, match="other content"):
        push(runs[0], TO, dry_run=True)


def test_a_push_that_fails_leaves_nothing(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    before = {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()}
    for where in ("POST /api/models/org/name/preupload", "PUT /lfs/", "POST /api/models/org/name/commit"):
        hub.broken = {where: 500}
        with pytest.raises(RemoteError, match="cannot write the model repository 'org/name' on the hub"):
            push(runs[0], TO, api=api)
        assert there(hub) == {}
    assert {path: path.read_bytes() for path in runs[0].rglob("*") if path.is_file()} == before
    hub.broken = {}
    assert push(runs[0], TO, api=api)["changed"]


@pytest.mark.parametrize(
    ("token", "repos", "to", "says", "advises"),
    [
        (False, {}, TO, "it knows no such user", "auth login"),
        ("another", {}, TO, "this user or token may not do that", "token that may"),
        (False, {"models/org/name": Repo([{}])}, TO, "no such user|none of that name", "auth login"),
        ("another", {"models/org/name": Repo([{}])}, TO, "may not do that", "token that may"),
    ],
)
def test_without_permission(
    hub: Hub, runs: list[Path], token: str | bool, repos: dict[str, Repo], to: str, says: str, advises: str
) -> None:
    hub.repos |= repos
    with pytest.raises(RemoteError, match=says) as caught:
        push(runs[0], to, api=HfApi(endpoint=hub.url, token=token))
    assert advises in str(caught.value.hint)


def test_somebody_else_was_there_meanwhile(
    hub: Hub, api: HfApi, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(runs[0], TO, api=api)
    repo, preupload = hub.repo("models/org/name"), api.preupload_lfs_files

    def meanwhile(*args: object, **settings: object) -> None:
        repo.add("main", {**repo.files(), "other": b""})
        preupload(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(api, "preupload_lfs_files", meanwhile)
    (runs[0] / "metrics.jsonl").write_text("")
    with pytest.raises(RemoteError, match="somebody else changed it meanwhile"):
        push(runs[0], TO, api=api)
    assert there(hub)["one/seed-0/metrics.jsonl"] != b""


def test_files_that_the_hub_ignores_are_missed(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    hub.repos["models/org/name"] = Repo([{".gitignore": b"metrics.jsonl\n"}])
    with pytest.raises(RemoteError, match="left out one/seed-0/metrics.jsonl"):
        push(runs[0], TO, api=api)


def test_a_licence_that_the_hub_does_not_know(hub: Hub, api: HfApi, runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match='does not take the card: .*\n.*"license" must be one of'):
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

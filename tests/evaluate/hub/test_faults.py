"""A hub that misbehaves, in pushing and in pulling: the reason is the true one, and few requests are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from helpers.local_hub import REASONS, Fault, Hub, Repo
from saepipe.data.errors import RemoteError
from saepipe.evaluate.hub.pull import pull
from saepipe.evaluate.hub.push import push
from saepipe.harvest import hub_client

TO = "hf://org/name"
FAULTS: dict[Fault, str] = REASONS | {403: "this user or token lacks permission"}

Command = Callable[[HfApi], object]


@pytest.fixture(params=["push", "pull"])
def command(request: pytest.FixtureRequest, runs: list[Path], tmp_path: Path) -> Command:
    if request.param == "push":
        return lambda api: push(runs[0], TO, api=api)
    return lambda api: pull(TO, tmp_path / "got", api=api)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_fails(
    fault: Fault, command: Command, hub: Hub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "never answers":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.repos["models/org/name"], hub.broken = Repo([{}]), {"/": fault}
    with pytest.raises(
        RemoteError, match=f"cannot (get|write) the model repository 'org/name' .* the hub: {FAULTS[fault]}"
    ):
        command(api)
    assert len(hub.requests) <= 2 * hub_client.ATTEMPTS
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("fault", ["never answers", "cut short"])
@pytest.mark.parametrize("request_part", ["/tree/", "GET /org/name/resolve"])
def test_a_pull_that_breaks_off_leaves_nothing(
    fault: Fault,
    request_part: str,
    hub: Hub,
    api: HfApi,
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(runs[0], TO, api=api)
    if fault == "never answers":
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    hub.broken = {request_part: fault}
    with pytest.raises(RemoteError, match=f"cannot get the model repository 'org/name' .*: {FAULTS[fault]}"):
        pull(TO, tmp_path / "got", api=api)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("request_part", ["/preupload/", "PUT /lfs/", "/commit/"])
def test_a_push_that_is_not_answered_writes_nothing(
    request_part: str, hub: Hub, api: HfApi, runs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.repos["models/org/name"], hub.broken = Repo([{}]), {request_part: "never answers"}
    with pytest.raises(RemoteError, match="cannot write the model repository 'org/name' .*: it did not answer in time"):
        push(runs[0], TO, api=api)
    assert hub.repo("models/org/name").files() == {}
    assert len([line for line in hub.requests if request_part in line]) == 1  # it may have been done

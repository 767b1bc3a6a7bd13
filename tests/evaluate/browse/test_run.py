"""The function behind the command: start, end, and refusals."""

from __future__ import annotations

import signal
import socket
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.made_results import write_run
from helpers.runs_to_browse import serving, write_runs
from saepipe.data.errors import ConfigError, MachineError
from saepipe.evaluate.browse import server
from saepipe.evaluate.browse.run import browse, open_runs
from saepipe.evaluate.browse.server import ADDRESS, listen


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_loads_nothing_heavy(runs: list[Path], end: signal.Signals) -> None:
    with serving(runs) as (url, process):
        parts = urlsplit(url)
        assert parts.hostname == ADDRESS
        assert parts.query.startswith("token=")
        connection = HTTPConnection(ADDRESS, parts.port or 0, timeout=20)
        connection.request("GET", f"/?{parts.query}")
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        cookie = {"Cookie": answer.headers["Set-Cookie"].split(";")[0]}
        for path, status in (("/data/0/match/1/3", 200), ("/../../config.yaml", 404), ("/data/%2e%2e/x", 404)):
            connection.request("GET", path, headers=cookie)  # sent without normalising the path
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, path
        process.send_signal(end)  # while a connection is open
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert out.strip() == "heavy:"
        assert err == ""


def test_only_this_machine_can_connect(runs: list[Path]) -> None:
    with listen(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        port = listening.getsockname()[1]
        with pytest.raises(MachineError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            browse(runs, port=port)
        assert "--port" in str(caught.value.hint)


def test_each_start_has_a_new_token(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[str] = []
    monkeypatch.setattr(server, "serve", lambda app, listening: listening.close())
    for _ in range(2):
        browse(runs, announce=announced.append)
    assert len({url.partition("token=")[2] for url in announced}) == 2
    assert all(len(url.partition("token=")[2]) >= 32 for url in announced)


def test_a_run_without_a_store_is_refused_with_the_remedy(tmp_path: Path) -> None:
    run = write_run(tmp_path / "topk" / "seed-0")
    with pytest.raises(ConfigError, match="no feature store") as caught:
        browse([run])
    assert caught.value.hint == "saepipe evaluate RUN"


def test_no_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="no run was given"):
        open_runs([])


def test_a_study_stands_for_its_runs_each_of_them_once(runs: list[Path]) -> None:
    study = runs[0].parents[1]
    assert sorted(run.label for run in open_runs([study, runs[0]]).runs) == [
        "jumprelu/seed-0",
        "topk/seed-0",
        "topk_orthogonal/seed-0",
    ]


def test_runs_of_two_studies_are_labelled_by_folder(runs: list[Path], tmp_path: Path) -> None:
    other = write_runs(tmp_path)[0]
    assert [run.label for run in open_runs([runs[0], other, runs[1]]).runs] == [
        str(runs[0]),
        str(other),
        "topk_orthogonal/seed-0",
    ]


@pytest.mark.parametrize("missing", ["uvicorn", "starlette"])
def test_a_missing_extra_is_reported_with_its_installation(
    runs: list[Path], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("server", "guard"):
        monkeypatch.delitem(sys.modules, f"saepipe.evaluate.browse.{part}", raising=False)
    for name in [name for name in sys.modules if name.startswith(missing)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MachineError, match=f"needs {missing}") as caught:
        browse(runs, announce=lambda url: pytest.fail("the address was announced before it could be served"))
    assert caught.value.hint == "pip install 'saepipe[browse]'"


def test_files_need_no_extra(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert browse(runs, static=tmp_path / "site") == tmp_path / "site" / "index.html"


def test_the_page_is_opened_on_request(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    announced: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(server, "serve", lambda app, listening: listening.close())
    browse(runs, open_page=True, announce=announced.append)
    assert opened == announced
    browse(runs, announce=announced.append)
    assert len(opened) == 1


def test_a_taken_port_is_not_shared(runs: list[Path]) -> None:
    with socket.create_server((ADDRESS, 0)) as other, pytest.raises(MachineError):
        listen(other.getsockname()[1])

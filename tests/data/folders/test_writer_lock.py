"""The lock of an artifact: it names its holder, others wait for it, and it ends with its process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from saepipe.data.errors import LockedError
from saepipe.data.folders.artifact import LOG, writer_lock

pytestmark = pytest.mark.quick

OWNER = "lock.owner"

HOLD = """
import sys, time
from pathlib import Path
from saepipe.data.folders.artifact import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_refusal_names_host_process_and_time(tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(LockedError) as raised, writer_lock(tmp_path):
        pass
    holder = rf"\(pid {os.getpid()} on {re.escape(socket.gethostname())}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.search(holder, str(raised.value))
    assert not (tmp_path / LOG / OWNER).exists()


def test_a_lock_is_waited_for_on_request(tmp_path: Path) -> None:
    held, release = Event(), Event()
    said: list[str] = []

    def hold() -> None:
        with writer_lock(tmp_path):
            held.set()
            release.wait(30)
            said.append("released")

    def on_waiting(sentence: str) -> None:
        said.append(sentence)
        release.set()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(hold)
        assert held.wait(30)
        with writer_lock(tmp_path, on_waiting):
            said.append("acquired")
    assert said[0].startswith(f"waiting: another process is writing {tmp_path} (pid {os.getpid()} on ")
    assert said[1:] == ["released", "acquired"]


def test_a_process_that_died_holds_no_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"pid {process.pid} on "), writer_lock(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert (tmp_path / LOG / OWNER).is_file()
    with writer_lock(tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / LOG / OWNER).read_text()


def test_an_unreadable_owner_is_not_an_error(tmp_path: Path) -> None:
    with writer_lock(tmp_path):
        (tmp_path / LOG / OWNER).write_bytes(b"\xff[")
        with pytest.raises(LockedError, match="not known which"), writer_lock(tmp_path):
            pass


def test_parts_of_a_folder_are_locked_apart(tmp_path: Path) -> None:
    with writer_lock(tmp_path, part="core"), writer_lock(tmp_path, part="geometry"):
        with pytest.raises(LockedError) as raised, writer_lock(tmp_path, part="core"):
            pass
        assert f"writing {tmp_path}/core (pid {os.getpid()} on " in str(raised.value)
        owners = {path.name for path in (tmp_path / LOG).glob("*.owner")}
        assert owners == {"core.lock.owner", "geometry.lock.owner"}

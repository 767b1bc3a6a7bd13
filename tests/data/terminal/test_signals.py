"""A process that is started by another ends with it."""

from __future__ import annotations

import signal
import subprocess
import sys

CODE = """
import time
from saepipe.data.terminal.signals import end_with_parent
end_with_parent()
print("on", flush=True)
time.sleep(60)
"""


def test_a_process_ends_when_its_pipe_does() -> None:
    process = subprocess.Popen([sys.executable, "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "on\n"
    assert process.poll() is None
    process.stdin.close()  # as the system does when the other process is gone
    assert process.wait(10) == -signal.SIGTERM
    process.stdout.close()

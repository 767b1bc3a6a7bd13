"""A Slurm of one machine in a folder of its own, and what its commands say of jobs; for bench/slurm.py."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = "apt-get install --no-install-recommends slurm-wlm munge"
SECONDS = 1800.0


@contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """Runs munged, slurmctld and slurmd, and points Slurm's commands at them."""
    for name in ("slurmctld", "slurmd"):
        (folder / name).mkdir(parents=True)
    conf = Path(__file__).with_name("slurm.conf").read_text()
    (folder / "slurm.conf").write_text(conf.replace("FOLDER", str(folder)).replace("USER", getpass.getuser()))
    (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge.key").chmod(0o400)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    names = {"key": "key", "socket": "sock", "pid": "pid", "log": "log", "seed": "seed"}
    options = [f"--{name}{'' if name == 'socket' else '-file'}={folder}/munge.{end}" for name, end in names.items()]
    try:
        for command in (["munged", "--force", *options], ["slurmctld"], ["slurmd", "-N", "localhost"]):
            subprocess.run(command, check=True)
    except FileNotFoundError as error:
        raise SystemExit(f"{error.filename} is missing: {NEEDED}") from None
    try:
        wait_until(lambda: "idle" in said("sinfo"), "the machine is idle")
        yield
    finally:
        said("scontrol", "shutdown")
        os.kill(int((folder / "munge.pid").read_text()), 15)


def said(*command: str) -> str:
    """Returns what a command prints; nothing if it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def field(job: str, name: str) -> str:
    """Returns a field of `scontrol show job`, such as JobState."""
    match = re.search(rf"\b{name}=(\S+)", said("scontrol", "show", "job", job))
    return match[1] if match else ""


def wait_until(done: Callable[[], object], what: str) -> None:
    """Waits for something; raises TimeoutError if it does not happen in half an hour."""
    end = time.monotonic() + SECONDS
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {SECONDS:.0f} s until {what}")
        time.sleep(0.5)

"""Commands that bench/slurm.py disturbs: how each is run, when it has begun, and the files that must come out equal."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

SAEPIPE = (sys.executable, "-m", "saepipe")
HOOK = "blocks.2.hook_resid_post"
RUN_FILES = ("sae/*", "config.yaml", "health.json", "manifest.jsonl", "COMMITTED")
"""Files of a run but for logs, which have times in them."""
TIMES = ("eval_id", "datetime_epoch_millis")
"""Keys of a result that differ each time, beside the digest over all of it."""

SLOW = """
import os, time
from saepipe.train import live_run

save = live_run.save_checkpoint

def slow(*args, **kwargs):
    time.sleep(45)
    save(*args, **kwargs)

if os.environ.get("RANK") == "1":
    live_run.save_checkpoint = slow
"""
"""A plugin by which the second rank's checkpoint takes longer than KillWait, 30 seconds."""

STUCK = """
import os, time

if "SLURM_JOB_ID" in os.environ:
    print("stuck", flush=True)
    time.sleep(600)
"""
"""A plugin by which a training does not come to its first step."""


@dataclass(frozen=True)
class Command(ABC):
    """A command that writes to a folder of its own below `folder`."""

    folder: Path
    """of everything"""
    out: Path
    name: ClassVar[str]

    @property
    @abstractmethod
    def arguments(self) -> list[str]: ...

    @abstractmethod
    def has_begun(self) -> bool: ...

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """Returns the digest of each file that must come out equal, by its path."""

    def run(self, *options: str) -> str:
        """Runs it, or submits it by `options`, in the folder above its own; returns what it prints."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        command = [*SAEPIPE, *self.arguments, *options]
        return subprocess.run(command, cwd=self.out.parent, check=True, capture_output=True, text=True).stdout

    def log(self) -> str:
        """Returns what all of its jobs have said."""
        return "".join(path.read_text() for path in sorted(self.out.glob("log/*.out")))


class Train(Command):
    """Four runs: two variants over two seeds."""

    name = "train"
    config = "train"

    @property
    def arguments(self) -> list[str]:
        return ["train", "--config", str(self.folder / f"{self.config}.yaml"), "--out", str(self.out)]

    def has_begun(self) -> bool:
        """Returns whether all runs have begun, those of each task and rank."""
        return num_begun(self.out) == 4

    def digests(self) -> dict[str, str]:
        return dict(of_runs(self.out))


class TrainSlowly(Train):
    """The same runs, with a second rank whose checkpoint takes long."""

    config = "slow"


class TrainStuck(Train):
    """The same runs, which never begin."""

    config = "stuck"

    def has_begun(self) -> bool:
        return "stuck" in self.log()


class Evaluate(Command):
    """Two metrics of the four runs that nothing disturbed, with model work of its own."""

    name = "evaluate"

    @property
    def arguments(self) -> list[str]:
        settings = ["metrics=[{name: core}, {name: geometry}]", "features=null", f"artifacts={self.out}-work"]
        runs = self.folder / "undisturbed" / Train.name
        options = [part for setting in settings for part in ("--set", setting)]
        return ["evaluate", str(runs), "--out", str(self.out), "--set", "device=cpu", *options]

    def has_begun(self) -> bool:
        return True

    def digests(self) -> dict[str, str]:
        return dict(of_results(self.out))


class Study(Command):
    """A whole study: cache, pilot, two arms over three seeds, evaluation, paragraph.

    Its runs name its cache by its path, which is the same from the folder above.
    """

    name = "study"

    @property
    def arguments(self) -> list[str]:
        return ["study", str(self.folder / "study.yaml"), "--out", self.out.name]

    def has_begun(self) -> bool:
        """Returns whether all runs of the pilot have begun."""
        return num_begun(self.out / "runs") >= 4

    def digests(self) -> dict[str, str]:
        said = {name: digest((self.out / name).read_bytes()) for name in ("paragraph.txt", "cache/COMMITTED")}
        return {**said, **dict(of_runs(self.out / "runs")), **dict(of_results(self.out / "runs"))}


def prepare(folder: Path, steps: int) -> None:
    """Harvests a little of the toy, and writes the configs of all commands."""
    text = {"num_tokens": 20_000, "heldout_tokens": 2_000, "hooks": [HOOK]}
    settings = [part for key, value in text.items() for part in ("--set", f"{key}={value}".replace("'", ""))]
    harvest = [*SAEPIPE, "harvest", *settings, "--out", str(folder / "cache")]
    subprocess.run(harvest, check=True, capture_output=True)
    sae = {"sae": {"name": "topk", "d_sae": 256, "k": 8}, "steps": steps, "batch_size": 256, "device": "cpu"}
    sae["checkpoint_every"] = 1_000_000  # so that what goes on is what the signal has kept
    auxk = {"name": "auxk", "penalties": [{"name": "auxk"}]}
    train = {**sae, "cache": str(folder / "cache"), "seeds": [0, 1], "variants": [{"name": "topk"}, auxk]}
    study = {
        "question": "Does auxk reconstruct better?",
        "harvest": text,
        "train": sae,
        "arms": [auxk],
        "evaluate": {"metrics": [{"name": "core"}], "features": None, "device": "cpu"},
        "primary_metrics": {"explained_variance": 0.05},
        "underpowered": "go_on",
    }
    configs: dict[str, dict[str, Any]] = {"train": train, "study": study}
    for name, plugin in (("slow", SLOW), ("stuck", STUCK)):
        (folder / f"{name}.py").write_text(plugin)
        configs[name] = {**train, "plugins": [str(folder / f"{name}.py")]}
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))


def num_begun(runs: Path) -> int:
    """Returns the number of runs that have logged a step."""
    return sum(log.stat().st_size > 0 for log in runs.glob("*/seed-*/metrics.jsonl"))


def of_runs(runs: Path) -> Iterator[tuple[str, str]]:
    """Yields path and digest of the files of all runs."""
    for name in RUN_FILES:
        for path in sorted(runs.glob(f"*/seed-*/{name}")):
            yield str(path.relative_to(runs)), digest(path.read_bytes())


def of_results(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields path and digest of all results, without what differs each time."""
    for path in sorted([*folder.glob("*-seed-*/*.json"), *folder.glob("*/seed-*/eval/*.json")]):
        result = {key: value for key, value in json.loads(path.read_text()).items() if key not in TIMES}
        del result["saepipe"]["digest"]
        yield str(path.relative_to(folder)), digest(json.dumps(result).encode())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

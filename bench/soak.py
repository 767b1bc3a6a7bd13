"""Random faults in harvest, train, evaluate and report: each is survived, or named and repaired, to the same bytes.

    python bench/soak.py [--faults 1000] [--minutes 15] [--seed 0] [--jobs 2]

Each job makes a small study of the toy model once without faults. Then each round breaks something, and mends it as a
user would. A command is interrupted at a random moment of its CPU time (SIGKILL, SIGTERM, Ctrl-C) or cannot write large
files (RLIMIT_FSIZE, as on a full disk), and is run again; or a file of the finished study is damaged (a bit flipped,
cut off, removed, swapped for another), `saepipe verify` has to name it, and `verify --repair` and the commands make it
again. Every file is then compared with the study without faults, except logs, times, checkpoints and the report.

    survived   the same command, run again, led to the same bytes
    repaired   the damage was named, and repaired to the same bytes
    replaced   the damage was named; the artifact cannot be repaired, and was removed and made again to the same bytes
    remade     a removed file that no seal lists, such as a result: missing for every command, and made again
    outside    a file that nothing believes: equal results without it
    silent     the damage was not named, or other bytes came out
    stuck      a command did not end

Exit code 1 if any round was silent or stuck, or a command blamed saepipe (exit code 1). Writes results/soak.json.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import torch
from record import write_result

from saepipe.cli import main as saepipe_main

HARVEST = """
model: {model: toy, dtype: float32, device: cpu}
hooks: [blocks.2.hook_resid_post]
num_tokens: 8k
heldout_tokens: 1k
heldout_share: 0.2
shard_rows: 1024
chunk_rows: 256
pool_shards: 2
batch_size: 16
"""
TRAIN = """
cache: cache
hook: blocks.2.hook_resid_post
sae: {name: relu, d_sae: 64}
penalties: [{name: l1, weight: 1.0}]
steps: 120
batch_size: 128
log_every: 10
checkpoint_every: 30
device: cpu
variants: [{name: relu}, {name: topk, sae: {name: topk, d_sae: 64, k: 8}, penalties: [{name: auxk}]}]
"""
EVALUATE = """
metrics: [{name: core, num_contexts: 4}]
features: {num_tokens: 2000}
device: cpu
"""
RUNS = ("runs/relu/seed-0", "runs/topk/seed-0")
STUDY: dict[str, list[str]] = {
    "harvest": ["harvest", "--config", "harvest.yaml", "--out", "cache"],
    "train": ["train", "--config", "train.yaml", "--out", "runs"],
    "evaluate": ["evaluate", *RUNS, "--config", "evaluate.yaml"],
    "report": ["report", *RUNS, "--out", "report.html"],
}
"""The commands of the study, in order, in its folder."""
ARTIFACTS = ("cache", "cache.artifacts", *RUNS)
NOT_COMPARED = {"log", "checkpoints", "metrics.seal.json", ".html"}
TIMES = {"tokens_per_second", "datetime_epoch_millis", "eval_id", "digest"}
"""Keys of JSON files that hold times, random names, or digests of such."""
OUTPUT_BYTES = 2**20
"""Capacity of the pipe that a command prints into."""
STUCK_AFTER = 120.0
"""Seconds after which a command counts as stuck; the longest takes five on two idle cores."""

IMPORTED = ("harvest.run", "train.run", "evaluate.run", "evaluate.report.run")
"""Modules of saepipe that are imported once, before the commands are forked; with a model of transformers."""

Fault = Callable[[], None]
"""Set up in a command's process before it begins."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, negative for a signal, None if it was stuck; and what it printed."""

    code: int | None
    text: str
    cpu_seconds: float


def main(num_faults: int, minutes: float, seed: int, jobs: int) -> int:
    stop = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=prepare) as pool:
        done = [pool.submit(break_and_mend, num_faults // jobs, stop, seed * jobs + job) for job in range(jobs)]
        rounds = [line for job in done for line in job.result()]
    counts = Counter(line["outcome"] for line in rounds)
    kinds = Counter(f"{line['fault']}: {line['outcome']}" for line in rounds)
    blamed = [line for line in rounds if 1 in line["codes"]]
    print(f"{len(rounds)} faults: {dict(counts)}; {len(blamed)} blamed on saepipe")
    write_result(
        "soak",
        "random faults are survived, or named and repaired, to the same bytes; none is silent, no command is stuck",
        {"seed": seed, "faults": len(rounds), "outcomes": counts, "by_fault": dict(sorted(kinds.items()))},
    )
    return int(bool(counts["silent"] or counts["stuck"] or blamed))


def prepare() -> None:
    """Imports, once a job, what its commands need; they are forked from it."""
    torch.set_num_threads(1)  # its threads would not survive a fork
    os.environ["SAEPIPE_COMMIT"] = "soak"  # the checkout may change meanwhile
    for module in IMPORTED:
        importlib.import_module(f"saepipe.{module}")
    for module in ("altair", "transformers.models.gemma2.modeling_gemma2"):
        importlib.import_module(module)


def break_and_mend(num_faults: int, stop: float, seed: int) -> list[dict[str, Any]]:
    """Returns the rounds of one study: so many, or as many as end before `stop`, a time of the monotonic clock."""
    with tempfile.TemporaryDirectory() as scratch:
        soak = Soak(Path(scratch), Random(seed))
        while len(soak.rounds) < num_faults and time.monotonic() < stop:
            soak.round()
    return soak.rounds


class Soak:
    """A study without faults, and a copy of it that is broken and mended round by round."""

    def __init__(self, scratch: Path, rng: Random) -> None:
        self.rng, self.rounds, self.last = rng, list[dict[str, Any]](), Ended(0, "", 0.0)
        self.study, self.sound = scratch / "study", scratch / "sound"
        self.study.mkdir()
        for name, text in (("harvest", HARVEST), ("train", TRAIN), ("evaluate", EVALUATE)):
            (self.study / f"{name}.yaml").write_text(text)
        self.seconds = {stage: self.must_run(STUDY[stage]).cpu_seconds for stage in STUDY}
        shutil.copytree(self.study, self.sound, symlinks=True)
        self.expected = contents(self.sound)
        print(f"{len(self.expected)} files; CPU-seconds {self.seconds}", flush=True)

    def round(self) -> None:
        """Breaks and mends the study once, and records how that went."""
        codes: list[int | None] = []
        if self.rng.random() < 0.5:
            fault, outcome = self.interrupt(codes)
        else:
            fault, outcome = self.damage(codes)
        self.rounds.append({"fault": fault, "outcome": outcome, "codes": codes})
        if outcome in ("silent", "stuck") or 1 in codes:
            print(
                f"  {len(self.rounds)}: {fault}: {outcome}, exit codes {codes}\n{self.last.text[-1500:]}",
                flush=True,
            )
        if outcome != "survived" or contents(self.study) != self.expected:
            self.restore()

    def interrupt(self, codes: list[int | None]) -> tuple[str, str]:
        """Runs a stage with a fault, then the study to its end."""
        stage = self.rng.choices(list(STUDY), weights=(3, 3, 3, 1))[0]
        self.remove_from(stage)
        kind, fault = self.fault(self.seconds[stage])
        codes.append(self.run(STUDY[stage], fault).code)
        return f"{stage}, {kind}", self.finish(codes, "survived", report=stage == "report")

    def damage(self, codes: list[int | None]) -> tuple[str, str]:
        """Damages a file of the finished study, then verifies, repairs and finishes it."""
        artifact = self.study / self.rng.choice(ARTIFACTS)
        files = [path for path in sorted(artifact.rglob("*")) if path.is_file() and path.stat().st_size]
        path = self.rng.choice([path for path in files if "log" not in path.relative_to(self.study).parts])
        kind = damage_file(path, files, self.rng)
        name = f"{kind} {kind_of(path.relative_to(self.study))}"
        verified = self.run(["verify", "."])
        codes.append(verified.code)
        if verified.code is None:
            return name, "stuck"
        below = path.relative_to(self.study)
        if str(below) not in verified.text and str(below.parent) not in verified.text:
            if contents(self.study) == self.expected:
                return name, "outside"
            return name, self.finish(codes, "remade") if kind == "remove" else "silent"
        codes.append(self.run(["verify", ".", "--repair"]).code)
        if None in codes:
            return name, "stuck"
        if artifact.name == "cache.artifacts":
            self.remove_results()  # or nothing would need the work that was removed
        outcome = self.finish(codes, "repaired")
        if outcome != "refused":
            return name, outcome
        shutil.rmtree(artifact)
        return name, self.finish(codes, "replaced")

    def finish(self, codes: list[int | None], success: str, *, report: bool = False) -> str:
        """Runs the study to its end, without faults, and compares it; the page is made only on request: it is slow."""
        for stage, arguments in STUDY.items():
            if stage == "report" and not report:
                continue
            ended = self.run(arguments)
            codes.append(ended.code)
            if ended.code:
                return "refused" if success == "repaired" and ended.code == 4 else "silent"
            if ended.code is None:
                return "stuck"
        return success if contents(self.study) == self.expected else "silent"

    def fault(self, seconds: float) -> tuple[str, Fault]:
        """Returns the name of a random fault, and the function that sets it up."""
        moment, kind = self.rng.uniform(0.0, seconds), self.rng.choice(["SIGKILL", "SIGTERM", "Ctrl-C", "full disk"])
        if kind == "full disk":
            limit = self.rng.choice([100, 3_000, 30_000, 200_000])
            return kind, lambda: limit_files(limit)
        number = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}[kind]
        return kind, lambda: signal_after(moment, number)

    def remove_from(self, stage: str) -> None:
        """Removes what a stage and those after it have made."""
        made = {"harvest": ["cache"], "train": ["runs"], "evaluate": ["cache.artifacts"], "report": ["report.html"]}
        for name in list(STUDY)[list(STUDY).index(stage) :]:
            for path in (self.study / name for name in made[name]):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if stage == "evaluate":
            self.remove_results()

    def remove_results(self) -> None:
        for run in RUNS:
            for name in ("eval", "features"):
                shutil.rmtree(self.study / run / name, ignore_errors=True)

    def restore(self) -> None:
        shutil.rmtree(self.study)
        shutil.copytree(self.sound, self.study, symlinks=True)

    def must_run(self, arguments: list[str]) -> Ended:
        ended = self.run(arguments)
        assert ended.code == 0, ended.text
        return ended

    def run(self, arguments: list[str], fault: Fault = lambda: None) -> Ended:
        """Runs a command in a process of its own, which inherits the imported modules."""
        sys.stdout.flush()
        output, write = os.pipe()  # no limit of file sizes applies to it
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, OUTPUT_BYTES)
        child = os.fork()
        if child == 0:
            self.run_here(arguments, fault, write)
        os.close(write)
        with os.fdopen(output, errors="replace") as printed:
            code, seconds = wait(child)
            self.last = Ended(code, printed.read(), seconds)
        return self.last

    def run_here(self, arguments: list[str], fault: Fault, output: int) -> NoReturn:
        """Runs a command in this process, and ends it."""
        code = 130  # Ctrl-C outside the command
        try:
            fault()
            os.chdir(self.study)
            os.dup2(output, 1)
            os.dup2(output, 2)
            code = saepipe_main(arguments)
        finally:  # nothing of the parent's may run here, such as the removal of its folder
            os._exit(code)


def wait(child: int) -> tuple[int | None, float]:
    """Waits for a process; returns its exit code, None if it was stuck and is killed, and its CPU-seconds."""
    stop = time.monotonic() + STUCK_AFTER
    while time.monotonic() < stop:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, STUCK_AFTER


def signal_after(seconds: float, number: signal.Signals) -> None:
    """Sends this process a signal once it has used some CPU-seconds."""
    signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), number))
    signal.setitimer(signal.ITIMER_PROF, max(seconds, 1e-3))


def limit_files(num_bytes: int) -> None:
    """Lets this process write no file beyond a size."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def damage_file(path: Path, others: list[Path], rng: Random) -> str:
    """Damages a file in a random way, and returns which."""
    kind = rng.choice(["flip", "cut", "remove", "swap"])
    data = bytearray(path.read_bytes())
    swapped = [other for other in others if other.suffix == path.suffix and other.read_bytes() != data]
    if kind == "swap" and swapped:
        path.write_bytes(rng.choice(swapped).read_bytes())
        return kind
    path.unlink()
    if kind == "remove":
        return kind
    if kind == "cut":
        path.write_bytes(data[: rng.randrange(len(data))])
        return kind
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return "flip"


def kind_of(path: Path) -> str:
    """Returns the kind of a file of the study: its path without names of runs, hooks, and numbers."""
    parts = [part for part in path.parts if not part.startswith(("blocks.", "seed-", "relu", "topk"))]
    kept = [part for part in parts if not part.isdigit() and not all(letter in "0123456789abcdef" for letter in part)]
    return "/".join(kept)


def contents(study: Path) -> Mapping[str, Any]:
    """Returns what must be equal of each file, by path."""
    names = [path.relative_to(study) for path in sorted(study.rglob("*")) if path.is_file()]
    return {str(name): comparable(study / name) for name in names if not NOT_COMPARED & {*name.parts, name.suffix}}


def comparable(path: Path) -> Any:
    """Returns a file's bytes; for JSON, its values without times."""
    data = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return data
    try:
        return [without_times(json.loads(line)) for line in (data.splitlines() if path.suffix == ".jsonl" else [data])]
    except ValueError:
        return data


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="studies broken side by side")
    arguments = parser.parse_args()
    sys.exit(main(arguments.faults, arguments.minutes, arguments.seed, arguments.jobs))

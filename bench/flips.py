"""Random bit flips over every kind of file that saepipe writes and later believes: all are reported, none is silent.

    python bench/flips.py [--flips 200] [--only "run"] [--cache CACHE]

Makes a small study of the toy (a cache of each codec profile, a run, its results, feature store, notes, work kept
beside the cache, outcomes of a validation), or takes shards from a copy of the given cache. Each flip hits a random bit
of a random file of its kind; then the kind's own readers read everything, and the bit is restored. A flip is

    named      an error about damaged data that names the file, or the folder whose seal it broke
    unnamed    an error about damaged data that names neither
    harmless   what is read is equal: other whitespace in JSON, another spelling of a number
    silent     something else is read, without an error
    crashed    any other error

Files under log/ (times, locks, the path of a run) are believed by no command and not flipped. Exports carry no seal:
repeating one compares every byte. Exit code 1 if a flip is unnamed, silent or crashed. Writes results/flips.json.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from record import write_result

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.flips import flipped
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.store import FeatureStore
from saepipe.evaluate.model.kept_work import beside, read
from saepipe.evaluate.results.result_file import read as read_result
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.validate.trained_stacks import Outcome, read_outcomes, write_outcomes
from saepipe.evaluate.verify.run import verify
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.checkpoint import last_checkpoint, load_checkpoint
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load
from saepipe.train.step.state import Recipe

PROFILES = ("lossless", "none", "int8")
HOOK = "blocks.2.hook_resid_post"
SMALL = {
    "model": {"dtype": "float32", "device": "cpu"},
    "hooks": ["blocks.1.hook_resid_post", HOOK],
    "num_tokens": 6_000,
    "heldout_tokens": 2_000,
    "heldout_share": 0.2,
    "shard_rows": 1024,
    "chunk_rows": 256,
    "pool_shards": 2,
    "batch_size": 16,
}
TRAIN = {
    "hook": HOOK,
    "sae": {"name": "relu", "d_sae": 64},
    "penalties": [{"name": "l1", "weight": 0.5}],
    "steps": 20,
    "batch_size": 256,
    "log_every": 5,
    "checkpoint_every": 10,
    "device": "cpu",
}
METRICS = [{"name": "core", "num_contexts": 4}, {"name": "geometry"}]
EVALUATE = {"device": "cpu", "metrics": METRICS, "features": {"num_tokens": 3000, "num_logits": 2}}


@dataclass(frozen=True)
class Kind:
    """Files of one kind, and the reader that believes them."""

    name: str
    files: list[Path]
    read: Callable[[], Any]
    """Returns all that it reads, as plain data."""


def main(cache: Path | None, flips: int, only: str, seed: int) -> int:
    torch.set_num_threads(1)
    counts = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in kinds(Path(scratch), cache):
            if only in kind.name:
                counts[kind.name] = flip_many(kind, flips, Random(seed))
                print(f"{kind.name}: {flips} flips over {len(kind.files)} files, {counts[kind.name]}", flush=True)
    claim = f"{flips} random bit flips over each kind of file: none is silent"
    if not only:
        write_result("flips", claim, {"flips": counts})
    return int(any(count[bad] for count in counts.values() for bad in ("unnamed", "silent", "crashed")))


def flip_many(kind: Kind, flips: int, random: Random) -> dict[str, int]:
    counts = Counter(dict.fromkeys(("named", "harmless", "unnamed", "silent", "crashed"), 0))
    expected = kind.read()
    for _ in range(flips):
        path = random.choice(kind.files)
        with flipped(path, random) as flip:
            result = outcome(kind, path, expected)
        counts[result] += 1
        if result not in ("named", "harmless"):
            print(f"  {result}: {flip}")
    assert kind.read() == expected, "every bit was restored"
    return dict(counts)


def outcome(kind: Kind, path: Path, expected: Any) -> str:
    """Reads everything of a kind while `path` is damaged; returns how the damage shows."""
    try:
        return "harmless" if kind.read() == expected else "silent"
    except (CorruptDataError, ConfigError) as error:
        return "named" if str(path) in str(error) or str(path.parent) in str(error) else "unnamed"
    except Exception as error:
        print(f"  {type(error).__name__}: {error}")
        return "crashed"


def kinds(scratch: Path, given: Path | None) -> Iterator[Kind]:
    """Makes the study in `scratch`, and yields the kinds of its files."""
    caches = {profile: harvest(parsed(profile), scratch / profile).path for profile in PROFILES}
    given_copy = {given.name: Path(shutil.copytree(given, scratch / "given"))} if given else {}
    for profile, folder in (caches | given_copy).items():
        files = Cache.open(folder).files
        shards = [folder / name for name, entry in files.items() if "chunks" in entry]
        yield Kind(f"cache, shards ({profile})", shards, lambda folder=folder: read_whole(folder))
    cache = caches["lossless"]
    shards = set(shards_of(cache))
    others = [path for path in files_in(cache) if path not in shards]
    yield Kind("cache, all other files", others, lambda: read_whole(cache))
    [run] = train(TrainConfig.parse(TRAIN | {"cache": str(cache)}), scratch / "runs")
    evaluate([run], EvaluateConfig.parse(EVALUATE))
    sealed = [run / name for line in artifact.read_manifest(run) for name in line.get("files", {})]
    yield Kind("run", [*sealed, run / artifact.MANIFEST, run / artifact.COMMITTED], lambda: read_run(run))
    logs = sorted(path for path in run.glob("metrics*") if path.is_file())
    yield Kind("run, log", logs, lambda: verified(run, logs))
    checkpoint = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))[-1]
    yield Kind("checkpoint", files_in(checkpoint), lambda: read_checkpoint(run, checkpoint))
    results = sorted((run / "eval").glob("*.json"))
    yield Kind("results", results, lambda: [without_digest(read_result(path)) for path in results])
    yield Kind("feature store", files_in(run / "features"), lambda: read_store(run))
    notes = Notes(run, open_run(run).fingerprint)
    notes.write(3, "capital letters after a full stop")
    yield Kind("notes", [run / "notes.json"], notes.read)
    work = sorted(path.parent for path in beside(cache).rglob(artifact.COMMITTED))
    works = [path for folder in work for path in files_in(folder)]
    yield Kind("kept work", works, lambda: [read_work(folder) for folder in work])
    outcomes = scratch / "validation" / "sweeps" / "one.json"
    write_outcomes(outcomes, [Outcome({"mcc": 0.1 * n, "l0": 3.0}, (0.5, 0.25), {"pairs": 7.0}) for n in range(9)])
    yield Kind("validation", [outcomes], lambda: read_outcomes(outcomes))


def parsed(profile: str) -> HarvestConfig:
    return HarvestConfig.parse({**SMALL, "codec": profile})


def files_in(folder: Path) -> list[Path]:
    """Returns all files of an artifact but those under log/."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and artifact.LOG not in path.parts]


def shards_of(cache: Path) -> list[Path]:
    return [cache / name for name, entry in Cache.open(cache).files.items() if "chunks" in entry]


def read_whole(folder: Path) -> Any:
    """Reads every row of every array and all statistics, through the readers of training and evaluation."""
    cache = Cache.open(folder)
    content: list[Any] = [dict(cache.attributes)]
    for array in sorted({name.split("/c/")[0] for name, entry in cache.files.items() if "chunks" in entry}):
        rows = MappedRows(folder, array, cache.files)
        content.append(rows.read(0, rows.num_rows).tobytes())
    for hook in cache.hooks:
        stats = cache.stats(hook)
        content += [stats.mean.tobytes(), stats.std.tobytes(), stats.absmax.tobytes()]
        content.append(cache.rows(hook).read(0, cache.num_tokens).tobytes())
    return content


def read_run(run: Path) -> Any:
    opened = open_run(run)
    sae = load(opened)
    weights = {name: value.numpy().tobytes() for name, value in sae.named_parameters()}
    return opened.fingerprint, opened.config, weights, sae.metadata, Health.read(run)


def verified(run: Path, files: list[Path]) -> Any:
    """Returns the files' content, as `saepipe verify` finds them intact."""
    if damaged := verify(run).damaged:
        raise CorruptDataError("\n".join(damaged))
    return [path.read_bytes() for path in files]


def read_checkpoint(run: Path, checkpoint: Path) -> Any:
    """Loads the last checkpoint as a resumed training does; one that is passed over counts as reported."""
    opened = open_run(run)
    assert isinstance(opened.config, TrainConfig)
    if last_checkpoint(run / "checkpoints", opened.run_id) != checkpoint:
        raise CorruptDataError(f"{checkpoint} is passed over")
    cache = Cache.open(opened.cache)
    recipe = Recipe(opened.config, cache.d_in, 1.0, torch.device("cpu"))
    state = load_checkpoint(checkpoint, recipe)
    params = {name: value.detach().numpy().tobytes() for name, value in state.params.items()}
    return state.step, params, state.sums.numpy().tobytes(), state.sparse


def without_digest(result: dict[str, Any]) -> Any:
    """Leaves out the digest under whatever name a flip gave it: nothing else believes it."""
    block = result["saepipe"]
    return {**result, "saepipe": {key: block[key] for key in list(block)[:-1]}}


def read_store(run: Path) -> Any:
    store = FeatureStore.open(run)
    latents = [repr(store.latent(index)) for index in range(store.info.d_sae)]
    return store.info, latents, {name: column.tobytes() for name, column in store.columns.items()}


def read_work(folder: Path) -> Any:
    content = read(folder)
    return content.info, {name: value.view(torch.uint8).numpy().tobytes() for name, value in content.tensors.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="finished cache, of whose copy the shards are damaged too")
    parser.add_argument("--flips", type=int, default=200, help="flips per kind of file")
    parser.add_argument("--only", default="", help="kinds whose names contain this")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(main(args.cache, args.flips, args.only, args.seed))

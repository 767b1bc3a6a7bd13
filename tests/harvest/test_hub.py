"""Models and datasets from a hub, through the command line: fetching, recorded commits, and errors.

The hub is tests/helpers/local_hub.py. Commands run in another process, since Hugging Face's libraries read HF_ENDPOINT
only once.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.local_hub import REASONS, Fault, Hub, Repo, serve
from saepipe.data.cache.cache import Cache
from saepipe.data.toy import MODEL_DIR, documents

HOOK = "blocks.1.hook_resid_post"
SETTINGS = ["model.device=cpu", f"hooks={HOOK}", "num_tokens=2000", "heldout_tokens=640", "heldout_share=0.2"]
SETTINGS += ["shard_rows=1024", "chunk_rows=256", "pool_shards=1", "batch_size=8"]
NEWS = ["dataset.source=org/news", "dataset.revision=v1"]

# Reads lines of a time-out and arguments, runs each, and writes a line with the result. Waits between attempts are
# skipped. A line without arguments downloads all of org/news.
WORKER = """
import io, json, sys, time
from contextlib import redirect_stderr, redirect_stdout
from huggingface_hub import constants, snapshot_download
from saepipe.cli import main
time.sleep = lambda seconds: None
for line in sys.stdin:
    constants.HF_HUB_DOWNLOAD_TIMEOUT, arguments = json.loads(line)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(arguments) if arguments else None
        arguments or snapshot_download("org/news", repo_type="dataset", revision="v1")
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Answer:
    code: int | None
    out: str
    err: str


Saepipe = Callable[..., Answer]


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in islice(documents(seed=5), 2500)]


@pytest.fixture(scope="module")
def hub(texts: list[str]) -> Iterator[Hub]:
    """Serves org/toy (v1: the toy; main: other weights) and org/news (four train files, one test file)."""
    toy = {path.name: path.read_bytes() for path in MODEL_DIR.iterdir()}
    other = toy | {"model.safetensors": toy["model.safetensors"][:-512] + bytes(512)}
    news = {f"data/train-{n:05d}-of-00004.parquet": parquet(texts[n * 600 : n * 600 + 600]) for n in range(4)}
    news |= {"data/test-00000-of-00001.parquet": parquet(texts[2400:]), "README.md": b"---\nlicense: mit\n---\n"}
    repos = {
        "models/org/toy": Repo([toy, other], {"v1": 0}),
        "models/org/gated": Repo([toy], gated=True),
        "datasets/org/news": Repo([news, news | {"CHANGES": b"none"}], {"v1": 0}),
        "datasets/org/gated": Repo([news], gated=True),
        "datasets/org/damaged": Repo([{"data/train-00000-of-00001.parquet": b"not parquet"}]),
    }
    with serve(Hub(repos)) as served:
        yield served


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Saepipe]]:
    """Starts a process with the given environment variables, which then runs one command after the other."""
    processes, home = [], tmp_path_factory.mktemp("hf_home")

    def start_process(**environment: str) -> Saepipe:
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={key: value for key, value in os.environ.items() if not key.startswith("HF_")}
            | quiet
            | {"HF_HOME": str(home)}
            | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)

        def harvest(out: Path | None, *settings: str, timeout: float = 10, verify: bool = False) -> Answer:
            """Runs `harvest`, or `cache verify --against-text`; without an `out`, downloads org/news."""
            assert process.stdin
            assert process.stdout
            overrides = [part for setting in [*SETTINGS, *settings] for part in ("--set", setting)]
            arguments = ["harvest", "--out", str(out), *overrides] if out else []
            arguments = ["cache", "verify", str(out), "--against-text"] if verify else arguments
            print(json.dumps([timeout, arguments]), file=process.stdin, flush=True)
            return Answer(*json.loads(process.stdout.readline()))

        return harvest

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def saepipe(hub: Hub, start: Callable[..., Saepipe]) -> Saepipe:
    return start(HF_ENDPOINT=hub.url)


def acts(cache: Cache) -> np.ndarray:
    return np.asarray(cache.rows(HOOK).read(0, cache.num_tokens))


def test_a_harvest_from_the_hub_equals_the_local_one(
    hub: Hub, saepipe: Saepipe, texts: list[str], tmp_path: Path
) -> None:
    answer = saepipe(tmp_path / "remote", "model.model=org/toy", "model.revision=v1", *NEWS)
    assert answer.code == 0, answer.err
    (tmp_path / "news.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:2400]))
    local = saepipe(tmp_path / "local", f"model.model={MODEL_DIR}", f"dataset.source={tmp_path / 'news.jsonl'}")
    assert local.code == 0, local.err

    remote, local = Cache.open(tmp_path / "remote"), Cache.open(tmp_path / "local")
    model, local_model = remote.attributes["model"], local.attributes["model"]
    assert (model["id"], model["revision"]) == ("org/toy", hub.repos["models/org/toy"].sha("v1"))
    assert {**model, "id": "", "revision": ""} == {**local_model, "id": "", "revision": ""}
    news = hub.repos["datasets/org/news"]
    assert remote.attributes["dataset"] == {"source": "org/news", "revision": news.sha("v1")}
    assert local.attributes["dataset"] == {"source": str(tmp_path / "news.jsonl"), "revision": None}
    assert remote.num_tokens == 2000
    assert np.array_equal(acts(remote), acts(local))
    assert np.array_equal(remote.heldout.contexts, local.heldout.contexts)
    assert len(remote.heldout.contexts) > 0


def test_a_commit_can_be_a_revision_and_main_is_the_default(hub: Hub, saepipe: Saepipe, tmp_path: Path) -> None:
    repo = hub.repos["models/org/toy"]
    digests = {}
    for revision in (repo.sha("v1"), repo.sha("main"), None):
        settings = [f"model.revision={revision}"] if revision else []
        answer = saepipe(tmp_path / str(revision), "model.model=org/toy", *settings, *NEWS)
        assert answer.code == 0, answer.err
        model = Cache.open(tmp_path / str(revision)).attributes["model"]
        assert model["revision"] == (revision or repo.sha("main"))
        digests[revision] = model["weights"]
    assert digests[None] == digests[repo.sha("main")] != digests[repo.sha("v1")]


def test_the_dataset_is_streamed(hub: Hub, saepipe: Saepipe, tmp_path: Path) -> None:
    """2,000 tokens are in the first of four files; 512 documents are tokenised at a time, with 512 read ahead."""
    hub.requests.clear()
    answer = saepipe(tmp_path / "few", *NEWS)
    assert answer.code == 0, answer.err
    fetched = hub.fetched("datasets/org/news/resolve")
    assert "train-00000-of-00004.parquet" in fetched
    assert not fetched & {f"train-0000{n}-of-00004.parquet" for n in (2, 3)}
    assert "test-00000-of-00001.parquet" not in fetched


def test_a_split_of_the_dataset(saepipe: Saepipe, texts: list[str], tmp_path: Path) -> None:
    settings = ["num_tokens=500", "heldout_tokens=0", "heldout_share=0"]
    assert saepipe(tmp_path / "test", *NEWS, "dataset.split=test", *settings).code == 0
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[2400:]))
    assert saepipe(tmp_path / "local", f"dataset.source={tmp_path / 'test.jsonl'}", *settings).code == 0
    assert np.array_equal(acts(Cache.open(tmp_path / "test")), acts(Cache.open(tmp_path / "local")))


def test_an_extended_cache_keeps_its_commits(hub: Hub, saepipe: Saepipe, texts: list[str], tmp_path: Path) -> None:
    """Before it is extended, the dataset's `main` gets other texts, and the model's only a README."""
    toy, news = hub.repos["models/org/toy"], hub.repos["datasets/org/news"]
    commits = {"model": toy.sha("main"), "dataset": news.sha("main")}
    settings = ["model.model=org/toy", "dataset.source=org/news"]
    assert saepipe(tmp_path / "whole", *settings, "num_tokens=4000").code == 0
    assert saepipe(tmp_path / "grown", *settings).code == 0
    news.commits.append({"data/train-00000-of-00001.parquet": parquet(texts[::-1])})
    toy.commits.append({**toy.files("main"), "README.md": b"a toy"})
    try:
        answer = saepipe(tmp_path / "grown", *settings, "num_tokens=4000")
    finally:
        news.commits.pop()
        toy.commits.pop()
    assert answer.code == 0, answer.err
    whole, grown = Cache.open(tmp_path / "whole"), Cache.open(tmp_path / "grown")
    assert {key: grown.attributes[key]["revision"] for key in commits} == commits
    assert grown.num_tokens == 4000
    assert np.array_equal(acts(whole), acts(grown))
    assert whole.fingerprint == grown.fingerprint


@pytest.mark.parametrize(
    ("settings", "code", "message", "hint"),
    [
        (["model.model=org/none"], 6, "the model 'org/none' from the hub: it does not exist", "check the id"),
        (["model.model=org/toy", "model.revision=v9"], 6, "'org/toy' at 'v9' from the hub: it has no such", "a branch"),
        (["model.model=org/gated"], 6, "the model 'org/gated' from the hub: it is gated", "ask for access"),
        (["dataset.source=org/none"], 6, "the dataset 'org/none' from the hub: it does not exist", "check the id"),
        (["dataset.source=org/gated"], 6, "'org/gated' from the hub: it is gated", "at http.*/datasets/org/gated,"),
        ([*NEWS, "dataset.revision=v9"], 6, "'org/news' at 'v9' from the hub: it has no such revision", "a branch"),
        ([*NEWS, "dataset.split=tset"], 2, "Bad split: tset. Available splits: .*'test'", "check dataset.split"),
        ([*NEWS, "dataset.subset=big"], 2, "'big' not found. Available: .*default", "dataset.subset"),
        (["dataset.source=org/damaged"], 2, "cannot read the dataset 'org/damaged'", "the files"),
        (["dataset.source=./none"], 2, "'./none' is not a file, a folder or a hub id", "check the path"),
    ],
)
def test_hub_errors_are_one_sentence_and_a_hint(
    saepipe: Saepipe, tmp_path: Path, settings: list[str], code: int, message: str, hint: str
) -> None:
    check_error(saepipe(tmp_path / "cache", *settings), code, message, hint)


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("fault", REASONS)
def test_a_hub_that_misbehaves(hub: Hub, saepipe: Saepipe, tmp_path: Path, kind: str, fault: Fault) -> None:
    """Each is reported with its reason after a few requests."""
    hub.broken, hub.requests = {"org/faulty": fault}, []
    settings = (
        [f"model.model=org/faulty-{fault}".replace(" ", "-")] if kind == "model" else ["dataset.source=org/faulty"]
    )
    answer = saepipe(tmp_path / "cache", *settings, timeout=0.2 if fault == "never answers" else 10)
    hub.broken = {}
    check_error(answer, 6, f"cannot get the {kind} 'org/faulty.*' from the hub: {REASONS[fault]}", "")
    requests = [line for line in hub.requests if "org/faulty" in line]
    assert len(requests) <= 8  # the library itself goes on five times with a file that breaks off
    assert fault not in ("never answers", "hangs up", 500) or len(requests) == 3


@pytest.mark.parametrize("fault", ["never answers", "cut short", 500])
def test_a_hub_that_stops_in_the_middle(hub: Hub, saepipe: Saepipe, tmp_path: Path, fault: Fault) -> None:
    """The list of files comes, but no file."""
    hub.broken = {"train-00000-of-00004": fault}
    timeout = 0.2 if fault == "never answers" else 10
    answer = saepipe(tmp_path / "cache", *NEWS, timeout=timeout)
    hub.broken = {}
    check_error(answer, 6, f"cannot get the dataset 'org/news' at 'v1' from the hub: {REASONS[fault]}", "try again")


def test_a_text_on_the_hub_is_compared_at_its_commit(hub: Hub, saepipe: Saepipe, tmp_path: Path) -> None:
    """Also after the branch has moved; a hub that cannot be reached is an error of its own."""
    assert saepipe(tmp_path / "cache", "dataset.source=org/news").code == 0
    news = hub.repos["datasets/org/news"]
    news.commits.append({"data/train-00000-of-00001.parquet": parquet(["other texts"] * 900)})
    try:
        answer = saepipe(tmp_path / "cache", verify=True)
        assert answer.code == 0, answer.err
        assert re.search(r"(?m)^compared +[0-9]+$", answer.out)
    finally:
        news.commits.pop()
    hub.broken = {"datasets/org/news": 500}
    answer = saepipe(tmp_path / "cache", verify=True)
    hub.broken = {}
    check_error(answer, 6, "cannot get the dataset 'org/news' .*from the hub: it answered 500", "try again")


def test_offline_with_what_was_fetched_before(saepipe: Saepipe, start: Callable[..., Saepipe], tmp_path: Path) -> None:
    settings = ["model.model=org/toy", "model.revision=v1", *NEWS]
    assert saepipe(tmp_path / "before", *settings).code == 0
    with serve(Hub({})) as closed:
        pass
    offline = start(HF_ENDPOINT=closed.url, HF_HUB_OFFLINE="1")
    for setting, kind in (("model.model=org/none", "model"), ("dataset.source=org/news", "dataset")):
        answer = offline(tmp_path / "none", setting)
        check_error(answer, 6, f"cannot get the {kind} 'org/.*' from the hub: HF_HUB_OFFLINE is set", "unset it")
    saepipe(None)
    answer = offline(tmp_path / "after", *settings)
    assert answer.code == 0, answer.err
    assert Cache.open(tmp_path / "after").fingerprint == Cache.open(tmp_path / "before").fingerprint
    assert offline(tmp_path / "toy").code == 0  # the embedded toy needs no hub


def check_error(answer: Answer, code: int, message: str, hint: str) -> None:
    assert answer.code == code, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    printed_error, printed_hint = re.findall(r"^error: (.*)\n  hint: (.*)$", answer.err, re.MULTILINE)[0]
    assert re.search(message, printed_error)
    assert re.search(hint, printed_hint)

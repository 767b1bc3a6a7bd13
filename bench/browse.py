"""At 65,536 latents the feature browser starts in under 2 s, and every page comes in under 200 ms, matching included.

    python bench/browse.py [--d-sae 65536] [--d-in 512 2304] [--quick]

Made-up feature stores of three runs, on disk. Start: from the start of the process to its first answer, five times.
Resources: over HTTP, each kind for 50 random latents; the first of each kind apart, since it may wait for the disk.
Views: in chromium, from the key or address to the drawn page, ten times each. Files: what `--static` takes and weighs,
a latent, over 1,024 of them. Writes results/browse.json.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from record import write_result

from saepipe.evaluate.browse.resources import BLOCKS
from saepipe.evaluate.browse.run import browse

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.chromium import open_browser
from helpers.made_stores import write_store
from helpers.runs_to_browse import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
AIMS = {"start_s": 2.0, "resource_ms": 200.0}
VARIANTS = ("topk", "topk_orthogonal", "jumprelu")
NUM_LATENTS, NUM_STARTS, NUM_VIEWS, NUM_FILED = 50, 5, 10, 1024


def write_runs(folder: Path, d_sae: int, d_in: int) -> list[Path]:
    return [
        write_store(folder / variant / "seed-0", d_sae, d_in=d_in, seed=seed) for seed, variant in enumerate(VARIANTS)
    ]


def measure(d_sae: int, d_in: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        runs = write_runs(Path(folder), d_sae, d_in)
        starts = [first_answer(runs) for _ in range(NUM_STARTS)]
        with serving(runs) as (url, _):
            resources, views = asked(url, d_sae), viewed(url, d_sae)
    worst = max(times["largest_ms"] for times in resources.values())
    return {
        "d_sae": d_sae,
        "d_in": d_in,
        "runs": len(runs),
        "start_s": {"first": round(starts[0], 2), "median": round(statistics.median(starts), 2)},
        "resources": resources,
        "views_in_chromium": views,
        "met": {"start": max(starts) < AIMS["start_s"], "resources": worst < AIMS["resource_ms"]},
    }


def first_answer(runs: list[Path]) -> float:
    """Seconds from the start of the process to its page."""
    started = time.perf_counter()
    with serving(runs) as (url, _):
        Client(url)
        return time.perf_counter() - started


class Client:
    """One connection, with the cookie."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port or 0)
        self._cookie = {}
        _, _, headers = self.get(f"/?{parts.query}")
        self._cookie = {"Cookie": headers["Set-Cookie"].split(";")[0]}

    def get(self, path: str) -> tuple[float, int, Any]:
        """Milliseconds, bytes and headers of an answer."""
        started = time.perf_counter()
        self._connection.request("GET", path, headers=self._cookie)
        answer = self._connection.getresponse()
        size = len(answer.read())
        assert answer.status == 200, (path, answer.status)
        return 1e3 * (time.perf_counter() - started), size, answer.headers


def asked(url: str, d_sae: int) -> dict[str, dict[str, float]]:
    client, drawn = Client(url), random.Random(0)
    latents = [drawn.randrange(d_sae) for _ in range(NUM_LATENTS)]
    names: dict[str, list[str]] = {
        "runs": ["runs"] * 5,
        "columns": ["0/columns"] * 5,
        "tokens": [f"0/tokens/{block}" for block in range(-(-d_sae // BLOCKS["tokens"]))],
        "roles": ["0/roles"] * 5,
        "notes": ["0/notes"] * 5,
        "latent": [f"0/latent/{latent}" for latent in latents],
        "match": [f"0/match/{1 + latent % 2}/{latent}" for latent in latents],
    }
    return {kind: summary([client.get(f"/data/{name}") for name in each]) for kind, each in names.items()}


def summary(answers: list[tuple[float, int, Any]]) -> dict[str, float]:
    first, *later = [took for took, _, _ in answers]
    return {
        "first_ms": round(first, 1),
        "median_ms": round(statistics.median(later or [first]), 1),
        "largest_ms": round(max(first, *later, 0), 1),
        "kilobytes": round(max(size for _, size, _ in answers) / 1e3, 1),
    }


def viewed(url: str, d_sae: int) -> dict[str, float] | str:
    """Median milliseconds, from a key or an address to the drawn view."""
    try:
        with open_browser() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 850})
            started = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("tbody a")
            first = 1e3 * (time.perf_counter() - started)
            page.wait_for_function("() => Table.open(0).then((table) => table.whole)")
            page.evaluate(DRAWN)
            drawn = random.Random(1)
            latents = [drawn.randrange(d_sae) for _ in range(NUM_VIEWS)]
            return {"page_and_list": round(first, 1)} | {
                "search": median(page, [f"searched('word{latent % 500}')" for latent in latents]),
                "sort": median(page, ["sorted()"] * NUM_VIEWS),
                "latent": median(page, [f"gone('#run=topk/seed-0&latent={latent}')" for latent in latents]),
                "compare": median(
                    page, [f"gone('#run=topk/seed-0&latent={latent}&with=jumprelu/seed-0')" for latent in latents]
                ),
            }
    except pytest.skip.Exception as reason:
        return str(reason)


DRAWN = """() => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const timed = async (act) => {
    const start = performance.now();
    await act();
    await frame();
    return performance.now() - start;
  };
  window.searched = (text) => timed(() => {
    const box = document.getElementById("search");
    box.value = text;
    box.dispatchEvent(new Event("input"));
  });
  window.sorted = () => timed(() => document.querySelector("th.c-density button").click());
  window.gone = (where) => timed(() => new Promise((done) => {
    const watch = new MutationObserver(() => { watch.disconnect(); done(); });
    watch.observe(document.getElementById("main"), { childList: true });
    location.hash = where;
  }));
}"""


def median(page: Page, calls: list[str]) -> float:
    return round(statistics.median([page.evaluate(call) for call in calls]), 1)


def files(d_in: int) -> dict[str, float]:
    """`--static` of two runs, a latent."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [write_store(Path(folder) / name / "seed-0", NUM_FILED, d_in=d_in) for name in VARIANTS[:2]]
        started, cpu = time.perf_counter(), time.process_time()
        index = browse(runs, static=Path(folder) / "site")
        took, cpu = time.perf_counter() - started, time.process_time() - cpu
        assert index is not None
        size = sum(path.stat().st_size for path in index.parent.rglob("*.js"))
    num = len(runs) * NUM_FILED
    return {
        "ms": round(1e3 * took / num, 2),
        "cpu_ms": round(1e3 * cpu / num, 2),
        "kilobytes": round(size / num / 1e3, 1),
    }


def shown(found: dict[str, Any]) -> str:
    lines = [f"{found['d_sae']:,} latents, d_in {found['d_in']}, {found['runs']} runs: start {found['start_s']}"]
    lines += [f"  {kind:<8} {times}" for kind, times in found["resources"].items()]
    return "\n".join([*lines, f"  chromium {found['views_in_chromium']}", f"  met      {found['met']}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--d-in", type=int, nargs="+", default=[512, 2304])
    parser.add_argument("--quick", action="store_true", help="4,096 latents of 256, and nothing is written")
    given = parser.parse_args()
    if given.quick:
        given.d_sae, given.d_in = 4096, [256]
    measured = [measure(given.d_sae, d_in) for d_in in given.d_in]
    static = files(given.d_in[0])
    print(*map(shown, measured), f"--static, a latent: {static}", sep="\n")
    if not given.quick:
        write_result("browse", CLAIM, {"aims": AIMS, "measured": measured, "static_a_latent": static})


if __name__ == "__main__":
    main()

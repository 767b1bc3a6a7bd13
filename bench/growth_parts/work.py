"""All kinds of work, by name; what a kind needs is imported only by the processes that do it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """A kind of work at several sizes."""

    what: str
    axis: str
    """what the sizes count"""
    sizes: tuple[int, ...]
    begin: str
    """`module.function` of this folder, (folder, size) -> what is measured; it opens the material in a folder"""
    prepare: str = ""
    """likewise, in a process of its own: makes the material, which kinds of work may share"""
    why: str = ""
    """why more than linear must be"""


SHARDS = (1250, 2500, 5000, 10_000)
D_SAE = (1024, 4096, 16_384, 65_536)
RUNS = (16, 32, 64, 128)
ALL_PAIRS = "every pair of decoder rows is compared"

WORKS = {
    "harvest": Work("harvest AG News", "tokens", (50_000, 100_000, 200_000, 400_000), "caches.harvest"),
    "text": Work("read, tokenise and pack AG News", "tokens", (100_000, 200_000, 400_000, 800_000), "caches.text"),
    "open": Work("open a cache", "shards", SHARDS, "caches.opened", "caches.write"),
    "verify": Work("verify a cache", "shards", SHARDS, "caches.verified", "caches.write"),
    "resume": Work("read the manifest to resume", "shards", SHARDS, "caches.resumed", "caches.write"),
    "gaps": Work("find the missing pools of a cache with gaps", "pools", SHARDS, "caches.gaps"),
    "epoch": Work("serve an epoch of batches", "shards", SHARDS, "caches.epoch", "caches.write"),
    "text order": Work("read a cache in the order of its text", "shards", SHARDS, "caches.text_order", "caches.write"),
    "step": Work("a sparse TopK step, k 32", "latents", D_SAE, "runs.steps"),
    "stack": Work("a step of stacked runs", "runs", (4, 8, 16, 32), "runs.stack", "runs.rows"),
    "expand": Work("plan a study's runs", "runs", (64, 128, 256, 512), "runs.plan", "runs.rows"),
    "finish": Work("train runs of one step", "runs", RUNS, "runs.train_all", "runs.rows"),
    "log": Work("health rules while a log grows", "lines", (1000, 2000, 4000, 8000), "runs.watch_log"),
    "width": Work("evaluate core of a run", "latents", D_SAE, "evaluations.core", "evaluations.one_run", ALL_PAIRS),
    "evaluate": Work("evaluate core of runs", "runs", (8, 16, 32, 64), "evaluations.core", "evaluations.many_runs"),
    "variants": Work("compare variants", "runs", RUNS, "evaluations.compared", "evaluations.made_variants"),
    "seeds": Work("compare seeds of two variants", "runs", RUNS, "evaluations.compared", "evaluations.made_seeds"),
    "report": Work("write a report", "runs", RUNS, "evaluations.reported", "evaluations.made_variants"),
    "letters": Work("absorption", "letters", (3, 6, 12, 24), "evaluations.absorption", "evaluations.spelling_run"),
    "store tokens": Work(
        "gather a feature store", "tokens", (40_000, 80_000, 160_000, 320_000), "stores.gather", "stores.by_tokens"
    ),
    "store width": Work("gather a feature store", "latents", D_SAE, "stores.gather", "stores.by_width", ALL_PAIRS),
    "coactive": Work("find co-active latents", "latents", D_SAE, "stores.coactive"),
    "index": Work("open and search the browser's index", "latents", D_SAE, "stores.index", "stores.made"),
}

"""Where a harvest and a training stop gaining from more GPUs: hours and bottleneck by number of GPUs and tokens.

    python bench/scale.py [--gpu-tokens-per-s 40000] [--d-in 2304] [--hooks 1] ... (see --help)

Arithmetic, not a measurement: every resource has a rate, all resources work at once, and the slowest sets the time.
Each rate is an option, and its default is measured (the results are named) or assumed. The same arithmetic, with rates
of this machine, is held against the harvests and trainings that 1, 2 and 4 ranks were timed at
(results/harvest_ranks.json, results/train_ranks.json). Prints its tables, and writes results/scale.json.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from record import RESULTS, write_result

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
GPUS = (1, 8, 64, 256, 1024)
TOKENS = (10**7, 10**8, 10**9, 10**10, 10**11)
RANKS = (1, 2, 4)


def rate(value: float, source: str) -> Any:
    return field(default=value, metadata={"source": source})


@dataclass(frozen=True)
class Site:
    """A site and the work on it. GB are 10^9 bytes, rows are bfloat16, and a core has one thread."""

    gpu_tokens_per_s: float = rate(40_000, "assumed: forward passes of a 2B model on one GPU")
    gpu_rows_per_s: float = rate(1_500_000, "assumed: training rows of one run on one GPU, d_sae 16,384, dense")
    start_s: float = rate(60, "assumed: start of a rank, with its model")
    text_tokens_per_s: float = rate(600_000, "results/growth.json: one thread reads, tokenises and packs AG News (toy)")
    encode_gb_per_core_s: float = rate(0.25, "assumed: half of zstd's level 1 alone")
    decode_gb_per_core_s: float = rate(1.5, "results/loader.json: lossless rows, checked, as shuffled batches")
    compression: float = rate(1.43, "results/cache.json: lossless")
    storage_write_gb_s: float = rate(5, "assumed: of the whole site")
    storage_read_gb_s: float = rate(20, "assumed: of the whole site")
    node_read_gb_s: float = rate(3, "assumed: of one machine")
    gpus_per_node: int = rate(8, "assumed")
    cores_per_gpu: int = rate(8, "assumed")
    encoders: int = rate(4, "the default: threads of a rank that encode")
    decoders: int = rate(4, "the default: threads of a machine that decode")
    d_in: int = rate(2304, "Gemma-2-2b")
    hooks: int = rate(1, "harvested and trained on")
    pool_rows: int = rate(262_144, "the default: rows of a pool, the unit of a rank's work")
    batch_tokens: int = rate(32_768, "the default on CUDA: tokens of a forward pass")
    variants: int = rate(16, "runs that share the cache")

    def gigabytes(self, tokens: int) -> float:
        return tokens * 2 * self.d_in * self.hooks / 1e9

    def harvest(self, tokens: int, gpus: int) -> dict[str, float]:
        """Returns the seconds for which each resource works in a harvest, one rank per GPU."""
        encoders = min(self.encoders, self.cores_per_gpu) * gpus
        own = share_of_pools(tokens, self.pool_rows, gpus) * passes(self.batch_tokens, self.pool_rows, gpus)
        return {
            self.named("GPUs", tokens / self.pool_rows, gpus): tokens * own / self.gpu_tokens_per_s,
            "text": tokens / self.text_tokens_per_s,  # the first rank reads it for all
            "encoding": self.gigabytes(tokens) / (self.encode_gb_per_core_s * encoders),
            "writing": self.gigabytes(tokens) / self.compression / self.storage_write_gb_s,
            "start": self.start_s,
        }

    def training(self, tokens: int, gpus: int) -> dict[str, float]:
        """Returns the seconds for which each resource works in one pass over the cache, each run on one rank."""
        used = min(gpus, self.variants)
        nodes = math.ceil(used / self.gpus_per_node)
        decoders = min(self.decoders, self.cores_per_gpu * min(used, self.gpus_per_node))
        stored = self.gigabytes(tokens) / self.compression  # every machine reads and decodes all of it, once
        return {
            self.named("GPUs", self.variants, gpus): tokens * math.ceil(self.variants / used) / self.gpu_rows_per_s,
            "decoding": self.gigabytes(tokens) / (self.decode_gb_per_core_s * decoders),
            "reading": stored / min(self.node_read_gb_s, self.storage_read_gb_s / nodes),
            "start": self.start_s,
        }

    @staticmethod
    def named(resource: str, units: float, gpus: int) -> str:
        """Adds how many of the GPUs have work, if there are fewer units of work than GPUs."""
        return resource if units >= gpus else f"{resource}, {math.ceil(units)} with work"


def share_of_pools(tokens: int, pool_rows: int, ranks: int) -> float:
    """Returns the share of the pools that the rank with the most has."""
    pools = math.ceil(tokens / pool_rows)
    return math.ceil(pools / ranks) / pools


def passes(batch_tokens: int, pool_rows: int, ranks: int) -> float:
    """Returns the forward passes per token: the batch that feeds the pools of two ranks is run by both."""
    return 1 + (batch_tokens / pool_rows if ranks > 1 else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for each in fields(Site):
        name, source = "--" + each.name.replace("_", "-"), each.metadata["source"]
        parser.add_argument(name, type=type(each.default), default=each.default, help=f"{source} ({each.default:g})")
    site = Site(**vars(parser.parse_args()))
    sources = {each.name: each.metadata["source"] for each in fields(Site)}
    print_table(("rate", "value", "source"), ((key, f"{value:g}", sources[key]) for key, value in asdict(site).items()))
    table = [row(site, tokens, gpus) for tokens in TOKENS for gpus in GPUS]
    print_table(table[0], (entry.values() for entry in table))
    saturated = saturation(site)
    print_table(("a harvest is limited by", "from this number of GPUs on"), saturated.items())
    held = [*held_against_harvests(), *held_against_trainings()]
    print_table(("work", "ranks", "predicted, s", "measured, s", "measured / predicted"), (e.values() for e in held))
    write_result(
        "scale",
        CLAIM,
        {"rates": asdict(site), "sources": sources, "table": table, "saturated": saturated, "held against": held},
    )


def row(site: Site, tokens: int, gpus: int) -> dict[str, Any]:
    (harvest, harvest_limit), (training, training_limit) = map(
        slowest, (site.harvest(tokens, gpus), site.training(tokens, gpus))
    )
    return {
        "tokens": f"{tokens:.0e}".replace("e+", "e"),
        "GPUs": gpus,
        "harvest, hours": readable(harvest),
        "limited by": harvest_limit,
        "GPU-hours": readable(harvest * gpus),
        "TB": readable(site.gigabytes(tokens) / site.compression / 1000),
        "training, hours": readable(training),
        "training limited by": training_limit,
    }


def saturation(site: Site) -> dict[str, int]:
    """Returns the number of GPUs beyond which each resource that they share would limit a long harvest."""
    tokens, per_gpu = 10**12, site.gpu_tokens_per_s / passes(site.batch_tokens, site.pool_rows, 2)
    seconds = site.harvest(tokens, 1)
    return {name: math.ceil(tokens / seconds[name] / per_gpu) for name in ("text", "writing")}


def slowest(seconds: dict[str, float]) -> tuple[float, str]:
    """Returns the hours, the start included, and what takes the longest."""
    name = max(seconds, key=seconds.__getitem__)
    return (seconds[name] + (seconds["start"] if name != "start" else 0)) / 3600, name


def readable(value: float) -> float | int:
    return int(value) if value >= 100 else float(f"{value:.2g}")


def held_against_harvests() -> Iterator[dict[str, Any]]:
    """Predicts harvests by several ranks from that by one, on one machine whose cores all ranks share.

    Ranks beyond the first join late by what the log says of two.
    """
    measured = json.loads((RESULTS / "harvest_ranks.json").read_text())
    tokens, pool_rows, batch = (measured[key] for key in ("tokens", "pool_rows", "batch_tokens"))
    for ranks in RANKS:
        own = share_of_pools(tokens, pool_rows, ranks) * passes(batch, pool_rows, ranks)
        crowded = max(1.0, ranks / measured["machine"]["cores"])
        joins = measured["joining seconds"]["2 ranks"] if ranks > 1 else 0
        predicted = measured["seconds"]["1 rank"] * own * crowded + joins
        yield compared("harvest", ranks, predicted, measured["seconds"])


def held_against_trainings() -> Iterator[dict[str, Any]]:
    """Predicts trainings by several ranks from that by one; each rank has one thread, and all share the cores."""
    measured = json.loads((RESULTS / "train_ranks.json").read_text())
    for ranks in RANKS:
        share = math.ceil(measured["runs"] / ranks) / measured["runs"]
        crowded = max(1.0, ranks / measured["machine"]["cores"])
        predicted = measured["seconds"]["1 rank"] * share * crowded
        yield compared("training", ranks, predicted, measured["seconds"])


def compared(work: str, ranks: int, predicted: float, seconds: dict[str, float]) -> dict[str, Any]:
    found = seconds["1 rank" if ranks == 1 else f"{ranks} ranks"]
    ratio = "the rate is from here" if ranks == 1 else round(found / predicted, 2)
    return {"work": work, "ranks": ranks, "predicted": round(predicted, 2), "measured": found, "ratio": ratio}


def print_table(heading: Any, rows: Any) -> None:
    for cells in (heading, ["---"] * len(tuple(heading)), *rows):
        print(f"| {' | '.join(str(cell) for cell in cells)} |")
    print()


if __name__ == "__main__":
    main()

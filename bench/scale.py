"""Where a harvest and a training stop gaining from more GPUs: hours and bottleneck by number of GPUs and tokens.

    python bench/scale.py [--gpu-tokens-per-s 40000] [--d-in 2304] [--hooks 1] ... (see --help)

Arithmetic, not a measurement: every resource has a rate, all work at once, and the slowest sets the time. The rates are
parameters; those of the CPU side (encoding, decoding, tokenising) default to what this project has measured per
CPU-second, and those of the GPU are assumptions until one has been measured. The same arithmetic is
held against the measured harvests by 1, 2 and 4 ranks (results/harvest_ranks.json). Writes results/scale.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from record import RESULTS, write_result

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
GPUS = (1, 8, 64, 256, 1024)
TOKENS = (10**7, 10**8, 10**9, 10**10, 10**11)


@dataclass(frozen=True)
class Site:
    """The rates of a site, and the shape of the work. GB are 10^9 bytes."""

    gpu_tokens_per_s: float = 40_000
    """forward passes of the model on one GPU (assumed: a 2B model on an H100)"""
    gpus_per_node: int = 8
    cores_per_node: int = 64
    d_in: int = 2304
    hooks: int = 1
    context_size: int = 1024
    pool_rows: int = 262_144
    batch_tokens: int = 32_768
    compression: float = 1.43
    """of a lossless cache (results/cache.json)"""
    encode_gb_per_core_s: float = 0.25
    """bfloat16 rows encoded per core (assumed: an eighth of the rate at which they are decoded)"""
    decode_gb_per_core_s: float = 1.6
    """rows decoded, checked and gathered per core (results/loader.json)"""
    tokenise_per_core_s: float = 400_000
    """tokens that one core tokenises and packs"""
    tokenise_cores: int = 8
    """cores of the first rank's machine that tokenise"""
    storage_write_gb_s: float = 5.0
    """of the whole site"""
    storage_read_gb_s: float = 20.0
    node_read_gb_s: float = 3.0
    gpu_rows_per_s: float = 1_500_000
    """training rows of one variant on one GPU (assumed: d_sae 16,384, dense)"""
    variants: int = 16
    gpu_hour: float = 2.5
    """price in any currency"""

    @property
    def row_bytes(self) -> float:
        return 2.0 * self.d_in * self.hooks

    def nodes(self, gpus: int) -> float:
        return max(1.0, gpus / self.gpus_per_node)

    def harvest(self, tokens: int, gpus: int) -> dict[str, float]:
        """Returns the seconds that each resource needs for a harvest."""
        # A batch that feeds the pools of two ranks is run by both.
        twice = 1 + (self.batch_tokens / self.pool_rows if gpus > 1 else 0)
        pools = -(-tokens // self.pool_rows)
        share = -(-pools // gpus) / pools  # of the rank with the most pools
        gigabytes = tokens * self.row_bytes / 1e9
        return {
            "forward": tokens * twice * share / self.gpu_tokens_per_s,
            "text": tokens / (self.tokenise_per_core_s * min(self.tokenise_cores, self.cores_per_node)),
            "encoding": gigabytes / (self.encode_gb_per_core_s * self.cores_per_node * self.nodes(gpus)),
            "storage": gigabytes / self.compression / self.storage_write_gb_s,
        }

    def training(self, tokens: int, gpus: int) -> dict[str, float]:
        """Returns the seconds that each resource needs for one pass over the cache with all variants."""
        gigabytes = tokens * self.row_bytes / 1e9
        used = min(gpus, self.variants)  # a run is on one rank
        nodes = self.nodes(used)
        return {
            "steps": tokens * -(-self.variants // used) / self.gpu_rows_per_s,
            "decoding": gigabytes / (self.decode_gb_per_core_s * min(4, self.cores_per_node)),  # 4 threads a machine
            "reading": gigabytes / self.compression / min(self.node_read_gb_s, self.storage_read_gb_s / nodes),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Site):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=type(field.default), default=field.default)
    site = Site(**vars(parser.parse_args()))
    table = [row(site, tokens, gpus) for tokens in TOKENS for gpus in GPUS]
    for line in (
        "| tokens | GPUs | harvest, hours | bottleneck | training, hours | bottleneck | harvest costs |",
        "|---|---|---|---|---|---|---|",
    ):
        print(line)
    for entry in table:
        print("| " + " | ".join(str(value) for value in entry.values()) + " |")
    write_result("scale", CLAIM, {"assumptions": asdict(site), "table": table, "checked": checked()})
    print(json.dumps(checked(), indent=2))


def row(site: Site, tokens: int, gpus: int) -> dict[str, Any]:
    harvest, training = site.harvest(tokens, gpus), site.training(tokens, gpus)
    slowest, last = max(harvest, key=harvest.__getitem__), max(training, key=training.__getitem__)
    hours = harvest[slowest] / 3600
    return {
        "tokens": f"{tokens:.0e}",
        "gpus": gpus,
        "harvest_hours": float(f"{hours:.3g}"),
        "harvest_bottleneck": slowest,
        "training_hours": float(f"{training[last] / 3600:.3g}"),
        "training_bottleneck": last,
        "harvest_cost": float(f"{hours * gpus * site.gpu_hour:.3g}"),
    }


def checked() -> list[dict[str, Any]]:
    """Compares the arithmetic with measured harvests, in which all ranks share the cores of one machine."""
    path = RESULTS / "harvest_ranks.json"
    measured = json.loads(path.read_text())
    seconds, tokens, cores = measured["seconds"], measured["tokens"], measured["machine"]["cores"]
    rate = tokens / (seconds["1 rank"] * min(1, cores))  # of one rank with one thread
    entries = []
    for ranks in (1, 2, 4):
        share = -(-measured["pools"] // ranks) / measured["pools"]
        twice = 1 + (measured["batch_tokens"] / measured["pool_rows"] if ranks > 1 else 0)
        predicted = tokens * share * twice / rate * max(1, ranks / cores)
        found = seconds[f"{ranks} rank{'s' if ranks > 1 else ''}"]
        entries.append(
            {
                "ranks": ranks,
                "predicted_s": round(predicted, 2),
                "measured_s": found,
                "ratio": round(found / predicted, 2),
            }
        )
    return entries


if __name__ == "__main__":
    main()

"""The cache against zarr-python's defaults: ratio >= 1.40, >= 2.0 decoded GB per CPU-second, >= 8x zarr-python's
default sequential read and >= 100x its random rows, on activations with Gemma-like statistics.

    python bench/cache.py [--rows 131072] [--rounds 5] [--folder SCRATCH]

The activations are a proxy: the residual stream of a random Gemma-2 (hidden 2304, 2 layers) with the per-channel and
per-token scales that trained models show. 1 GB is 1e9 bytes of decoded bfloat16, all from the page cache; CPU-seconds
are summed over all threads. Readers take turns, so that a busy minute affects all; figures are medians over rounds.

A sequential read with zarr-python's defaults reads the rows of a training batch, in order. Its chunks span 8192 rows,
so each is decoded four times; reading whole chunks is faster, and the table shows that too. Writes results/cache.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zarr
from record import write_result
from transformers import Gemma2Config, Gemma2ForCausalLM

from saepipe.data.batches.shuffle import permutation
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.folders import artifact
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint

CLAIM = __doc__.split("\n\n")[0].replace("\n", " ")
HOOK = "blocks.1.hook_resid_post"
D_IN, CONTEXT, VOCABULARY = 2304, 128, 4096
REPLICAS = 4
SLICE_ROWS = 16_384  # whole chunks of either array, 75 MB: the size that zarr-python reads fastest
RING_CHUNKS = 16
BATCH, RANDOM_ROWS = 2048, 512

LOSSLESS, AGAIN = "ours, lossless: sequential, first touch", "ours, lossless: sequential, later"
SHUFFLED = "ours, lossless: shuffled batches"
NONE, NONE_AGAIN = "ours, none: sequential, first touch", "ours, none: sequential, later"
ZARR = f"zarr-python, its defaults: {BATCH} rows a read"
ZARR_WIDE, ZARR_OURS = (f"zarr-python, {of}: {SLICE_ROWS} rows a read" for of in ("its defaults", "our array"))
ZARR_RANDOM = f"zarr-python, its defaults: {RANDOM_ROWS} random rows"

Reader = Callable[[], int]
"""Reads once and returns how many bytes of activations it delivered."""


@dataclass(frozen=True)
class Timing:
    """Bytes that one read delivered, its CPU-seconds over all threads, and its wall seconds."""

    num_bytes: int
    cpu_seconds: float
    wall_seconds: float


def main(num_rows: int, rounds: int, folder: Path) -> None:
    began = time.perf_counter()
    x = proxy(num_rows)
    print(f"proxy: {len(x):,} x {D_IN} rows in {time.perf_counter() - began:.0f} s", flush=True)
    bits = x.view(torch.int16).numpy().view(np.uint16)
    caches = {profile: write_cache(folder / profile, bits, profile) for profile in ("lossless", "none")}
    default = zarr.create_array(folder / "default.zarr", data=bits)
    sizes = {"ours": stored_bytes(caches["lossless"] / "acts"), "zarr-python": stored_bytes(folder / "default.zarr")}
    ratios = {name: bits.nbytes / size for name, size in sizes.items()}
    facts = {"shape": list(bits.shape), "zarr_default_chunks": list(default.chunks), "statistics": statistics_of(x)}
    del x, bits
    torch.set_num_threads(1)  # a second thread would spin while the first gathers
    with ExitStack() as stack:
        timings = measure(readers(caches, default, stack), rounds)
    report(facts, ratios, timings)


def proxy(num_rows: int, seed: int = 0) -> torch.Tensor:
    """Returns rows like a trained model's residual stream, (num_rows, d_in) bfloat16, without BOS, as in a cache.

    A quarter are rows of the forward pass, the rest mixes of two of them; all have new random norms.
    """
    generator = torch.Generator().manual_seed(seed)
    base = residuals(num_rows // REPLICAS, generator)
    scale, mean = channels(generator)
    parts = []
    for replica in range(REPLICAS):
        first, second = (torch.randperm(len(base), generator=generator) for _ in range(2))
        mixed = 0.8 * base[first] + 0.6 * base[second] if replica else base
        norms = torch.exp(0.28 * torch.randn(len(base), 1, generator=generator))
        parts.append(((mixed * scale + mean) * norms).bfloat16())
    return torch.cat(parts)


def residuals(num_rows: int, generator: torch.Generator) -> torch.Tensor:
    """Returns the stream after the last layer of a random Gemma-2, with mean square 1, (num_rows, d_in) float32."""
    torch.manual_seed(0)  # for the weights
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=D_IN,
        intermediate_size=D_IN,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config).bfloat16().eval()
    ids = torch.randint(3, VOCABULARY, (-(-num_rows // (CONTEXT - 1)), CONTEXT), generator=generator)
    ids[:, 0] = config.bos_token_id
    kept = [capture(model, part, [HookPoint.parse(HOOK)])[HOOK][:, 1:] for part in ids.split(16)]
    x = torch.cat(kept).reshape(-1, D_IN)[:num_rows].float()
    return x / x.square().mean().sqrt()


def channels(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns scale and mean per channel, (d_in,): log-normal, with 40 heavy and 6 massive channels."""
    scale = 2.6 * torch.exp(0.6 * torch.randn(D_IN, generator=generator))
    outliers = torch.randperm(D_IN, generator=generator)[:46]
    scale[outliers[:40]] *= 6
    scale[outliers[40:]] *= 25
    return scale, 0.3 * scale * torch.randn(D_IN, generator=generator)


def statistics_of(x: torch.Tensor) -> dict[str, list[float]]:
    """Returns quantiles 0.01, 0.5, 0.99 and 1 of token norms and of channels' root mean squares, over 16k rows."""
    part, q = x[:: max(1, len(x) // 16_384)].float(), torch.tensor([0.01, 0.5, 0.99, 1])
    figures = {"token_norm": part.norm(dim=1), "channel_rms": part.square().mean(0).sqrt()}
    return {name: [round(value, 2) for value in values.quantile(q).tolist()] for name, values in figures.items()}


def write_cache(folder: Path, bits: np.ndarray, profile: Profile) -> Path:
    """Writes a finished cache of training rows (num_rows, d_in) in shuffled pools of one shard; nothing is held out."""
    layout = Layout({HOOK: bits.shape[1]}, CONTEXT, 65_536, 1024, profile)
    attributes = {"format_version": layout.format_version, "hooks": [HOOK], **layout.describe_widths()}
    attributes |= {"num_heldout_contexts": 0, "model": {"id": "made up"}, "context_size": CONTEXT, "config": {}}
    pool_rows = {"train": layout.shard_rows, "heldout": layout.shard_rows}
    with artifact.writer_lock(folder), closing(CacheWriter(folder, layout, pool_rows)) as writer:
        writer.start(attributes)
        for number, start in enumerate(range(0, len(bits), layout.shard_rows)):
            rows = bits[start : start + layout.shard_rows]
            row_ids = np.arange(start, start + len(rows))
            arrays = {
                f"acts/{HOOK}": rows,
                f"norm/{HOOK}": np.zeros(len(rows), np.float32),
                "context_id": row_ids // (CONTEXT - 1),
                "position": (row_ids % (CONTEXT - 1) + 1).astype(np.int32),
            }
            writer.put(RowPool("train", number, arrays, permutation(len(rows), 0, number).numpy(), {}))
        writer.finish(attributes)
    return folder


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def readers(caches: dict[str, Path], default: zarr.Array, stack: ExitStack) -> dict[str, Reader]:
    """Returns the readers that are compared, by name."""
    lossless, none = Cache.open(caches["lossless"]), Cache.open(caches["none"])
    ring = np.zeros((RING_CHUNKS, 1024, D_IN), np.uint16)
    generator = np.random.default_rng(0)
    stream = stack.enter_context(BatchStream(lossless, HOOK, BATCH, seed=0))
    batches, checked, checked_none = stream.batches(), lossless.rows(HOOK), none.rows(HOOK)
    next(batches)
    ours = zarr.open_array(lossless.path / "acts" / HOOK, mode="r")
    return {
        LOSSLESS: lambda: in_order(lossless.rows(HOOK), ring),
        AGAIN: lambda: in_order(checked, ring),
        SHUFFLED: lambda: one_epoch(batches, stream.num_rows),
        NONE: lambda: in_order(none.rows(HOOK), ring),
        NONE_AGAIN: lambda: in_order(checked_none, ring),
        ZARR: lambda: slices(default, BATCH),
        ZARR_WIDE: lambda: slices(default, SLICE_ROWS),
        ZARR_OURS: lambda: slices(ours, SLICE_ROWS),
        ZARR_RANDOM: lambda: random_rows(default, generator),
    }


def in_order(rows: MappedRows, ring: np.ndarray) -> int:
    """Reads every chunk into reused buffers, on one thread, and returns the bytes."""
    for chunk in range(rows.num_chunks):
        rows.read_chunk(chunk, ring[chunk % len(ring)])
    return rows.num_rows * D_IN * 2


def one_epoch(batches: Iterator[torch.Tensor], num_rows: int) -> int:
    """Reads one epoch of shuffled batches, which includes decoding, permuting and gathering, and returns the bytes.

    The stream decodes a pool ahead. The measured time includes the end of that work, so each epoch pays for one pool.
    """
    num_bytes = sum(next(batches).nbytes for _ in range(num_rows // BATCH))
    settle()
    return num_bytes


def settle() -> None:
    """Waits until no thread of this process is working."""
    while True:
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.002:
            return


def slices(array: zarr.Array, size: int) -> int:
    """Reads the whole array in order, `size` rows per read, and returns the bytes."""
    return sum(array[start : start + size].nbytes for start in range(0, array.shape[0], size))


def random_rows(array: zarr.Array, generator: np.random.Generator) -> int:
    return array.oindex[generator.choice(array.shape[0], RANDOM_ROWS, replace=False)].nbytes


def measure(readers: dict[str, Reader], rounds: int) -> dict[str, list[Timing]]:
    """Times each reader once per round, after one round that does not count."""
    timings: dict[str, list[Timing]] = {name: [] for name in readers}
    for _ in range(rounds + 1):
        for name, read in readers.items():
            settle()
            timings[name].append(timed(read))
    return {name: lines[1:] for name, lines in timings.items()}


def timed(read: Reader) -> Timing:
    cpu, wall = time.process_time(), time.perf_counter()
    num_bytes = read()
    return Timing(num_bytes, time.process_time() - cpu, time.perf_counter() - wall)


def report(facts: dict, ratios: dict[str, float], timings: dict[str, list[Timing]]) -> None:
    """Prints the table and the aims, and writes results/cache.json."""
    per_cpu = {name: [t.num_bytes / 1e9 / t.cpu_seconds for t in lines] for name, lines in timings.items()}
    per_wall = {name: [t.num_bytes / 1e9 / t.wall_seconds for t in lines] for name, lines in timings.items()}
    speed = {name: statistics.median(values) for name, values in per_cpu.items()}
    print(f"{'':48}GB/CPU-s   (range)          GB/s wall")
    for name, values in per_cpu.items():
        spread = f"({min(values):.4f} - {max(values):.4f})"
        print(f"{name:48}{speed[name]:8.4f}   {spread:18}{statistics.median(per_wall[name]):8.4f}")
    reached = {
        "compression ratio": (ratios["ours"], 1.40),
        "GB per CPU-second, checked": (speed[LOSSLESS], 2.0),
        f"times zarr-python's defaults, {BATCH} rows a read": (speed[LOSSLESS] / speed[ZARR], 8.0),
        "times zarr-python's defaults, random rows": (speed[SHUFFLED] / speed[ZARR_RANDOM], 100.0),
    }
    for name, (value, aim) in reached.items():
        print(f"{name:52}{value:10.3f}   aim {aim:g}: {'met' if value >= aim else 'MISSED'}")
    figures = {
        "aims": {name: {"found": value, "aim": aim} for name, (value, aim) in reached.items()},
        "ratio": ratios,
        "GB_per_cpu_second": speed,
        "GB_per_second": {name: statistics.median(values) for name, values in per_wall.items()},
        "rounds": {"GB_per_cpu_second": per_cpu, "GB_per_second": per_wall},
        "activations": facts,
    }
    print(f"written to {write_result('cache', CLAIM, figures)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=131_072)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="parent folder of the temporary caches (2 GB)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        main(args.rows, args.rounds, Path(scratch))

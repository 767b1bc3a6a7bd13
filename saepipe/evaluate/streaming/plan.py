"""What `saepipe train --dry-run` tells of a training with `cache: stream`: both sides, and what bounds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.rolling.open_pools import OpenPools
from saepipe.data.rolling.rolling_cache import RollingCache
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.display import aligned
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.streaming.run import checked_harvest
from saepipe.evaluate.streaming.space import Space
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import Plan, plan
from saepipe.harvest.run import harvest
from saepipe.train import dry_run as training
from saepipe.train.config import TrainConfig
from saepipe.train.config_sections import StreamConfig
from saepipe.train.from_harvest import opened
from saepipe.train.variants import expand


@dataclass(frozen=True)
class StreamDryRun:
    """Cost of a training, of the harvest that feeds it, and the bounds between them."""

    training: training.DryRun
    harvest: Plan
    space: Space

    def to_dict(self) -> dict[str, Any]:
        return {**self.training.to_dict(), "harvest": self.harvest.to_dict(), "space": asdict(self.space)}

    def render(self) -> list[RenderableType]:
        """Returns the harvest's lines, the training's table, and a sentence on the space of the stream."""
        shown = {key: text for key, text in self.harvest.page().items() if key not in ("activations", "disk")}
        return [*aligned(shown), *training.render(self.training), self.space.sentence()]


def dry_run_stream(config: TrainConfig, out: Path) -> StreamDryRun:
    """Plans both sides, and times some of their steps; writes only a small cache to a temporary folder.

    Raises:
        ConfigError: if a run or the harvest cannot be made, or the training cannot have a stream.
    """
    assert config.stream is not None
    harvest_settings = checked_harvest(config.stream, out)
    harvesting = plan(harvest_settings, out, ranks=config.stream.ranks)
    space = Space.of(config.stream, harvest_settings, harvesting.widths)
    num_rows = max(variant.config.batch_size for variant in expand(config))
    small = partial(_small_stream, harvest_settings, num_rows)
    with opened(config, out, Ranks(), Share(), small, Silent()) as (streamed, caches):
        return StreamDryRun(training.dry_run(streamed, opened=caches), harvesting, space)


@contextmanager
def _small_stream(
    config: HarvestConfig, num_rows: int, settings: StreamConfig, out: Path, progress: Progress
) -> Iterator[RollingCache]:
    """Opens the stream with a head of a single batch, in a temporary folder; nothing follows it."""
    size = config.chunk_rows * -(-num_rows // config.chunk_rows)
    update = {"num_tokens": size, "shard_rows": size, "pool_shards": 1, "heldout_tokens": config.context_size}
    with tempfile.TemporaryDirectory() as folder:
        head = harvest(config.model_copy(update=update), Path(folder) / "head", progress=progress)
        pools = OpenPools(RollingFolder(Path(folder)), config.pool_rows, config.num_tokens)
        yield RollingCache.of(head, pools, lambda: nullcontext(lambda: False))

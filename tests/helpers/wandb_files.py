"""Reads W&B's offline files without W&B's reader: LevelDB's log format, blocks of 32 KiB, protobuf records."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, FILE_HEADER = 32_768, 7, 7


@dataclass
class OfflineRun:
    """Contents of an offline file."""

    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)  # without W&B's own keys
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline(path: Path) -> OfflineRun:
    """Reads a file `run-<id>.wandb`."""
    from wandb.proto.wandb_internal_pb2 import Record

    run = OfflineRun()
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name, run.group = record.run.run_id, record.run.display_name, record.run.run_group
            run.project = record.run.project
            run.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            values = {_key(item): json.loads(item.value_json) for item in record.history.item}
            run.history.append({key: value for key, value in values.items() if key == "_step" or key[0] != "_"})
        elif kind == "summary":
            run.summary |= {_key(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _records(data: bytes) -> Iterator[bytes]:
    position, record = FILE_HEADER, b""
    while position < len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # the end of a block is padded
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        record = part if kind in (1, 2) else record + part  # full or first; middle or last
        if kind in (1, 4):
            yield record

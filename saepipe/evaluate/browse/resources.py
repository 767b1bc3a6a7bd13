"""Content of the browser as named resources: JSON, the same from the server and in the files of `--static`.

runs                    the open runs
0/columns               of run 0: columns by which latents can be sorted, each (d_sae,) float32 in base64
0/tokens/3              top tokens of its latents from 3 * 1024 on, one block
0/roles                 by latent, its roles in the evaluations
0/notes                 by latent, people's notes
0/latent/123            one latent, with its examples
0/match/1/123           its counterpart in run 1
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from saepipe.data.errors import SaepipeError
from saepipe.evaluate.browse.counterpart import Match, nearest, nearest_of_each
from saepipe.evaluate.browse.latent_json import latent_json
from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.features.roles import Role
from saepipe.evaluate.features.store import FeatureStore

BLOCKS = {"tokens": 1024, "latent": 64, "match": 4096}
"""Number of latents in one resource of tokens, and in one file of `--static`."""

_NAME = re.compile(r"([0-9]{1,4})/([a-z]{1,9})(?:/([0-9]{1,9}))?(?:/([0-9]{1,9}))?")


@dataclass(frozen=True)
class OpenRun:
    """A run in the browser."""

    label: str
    store: FeatureStore
    roles: dict[int, list[Role]]
    notes: Notes

    @property
    def d_sae(self) -> int:
        return self.store.info.d_sae


class Resources:
    """All resources of some runs. Names refer to runs and latents by number; they are never used as paths."""

    def __init__(self, runs: Sequence[OpenRun]) -> None:
        self.runs = tuple(runs)

    def get(self, name: str) -> bytes | None:
        """Returns a resource as JSON; None if it does not exist."""
        if name == "runs":
            return _json({"runs": [_about(run) for run in self.runs], "blocks": BLOCKS})
        if (parsed := self._parse(name)) is None:
            return None
        run, kind, numbers = parsed
        match kind, numbers:
            case "columns", []:
                return _json({key: _packed(column) for key, column in run.store.columns.items()})
            case "tokens", [block] if block * BLOCKS["tokens"] < run.d_sae:
                return _json([run.store.top_tokens(latent) for latent in list(blocks_of(run.d_sae, "tokens"))[block]])
            case "roles", []:
                return _json({str(latent): [_role(role) for role in roles] for latent, roles in run.roles.items()})
            case "notes", []:
                return _json(run.notes.read())
            case "latent", [latent] if latent < run.d_sae:
                return _json(latent_json(run.store.latent(latent)))
            case "match", [other, latent] if other < len(self.runs) and latent < run.d_sae:
                return self._match(run, self.runs[other], latent)
        return None

    def note_of(self, name: str) -> tuple[Notes, int] | None:
        """Returns notes and latent of a name such as `0/notes/123`; None if there is no such latent."""
        match self._parse(name):
            case run, "notes", [latent] if latent < run.d_sae:
                return run.notes, latent
        return None

    def matches(self, run: OpenRun, other: OpenRun) -> Iterator[bytes]:
        """Yields the `match` resources of all latents of `run`, in order."""
        if reason := incomparable(run, other):
            yield from (_json({"latent": None, "reason": reason}) for _ in range(run.d_sae))
        else:
            yield from map(_match_json, nearest_of_each(run.store.decoder, other.store.decoder))

    def warm(self) -> None:
        """Reads every decoder once, so that the first match does not wait for the disk."""
        for run in self.runs:
            with suppress(SaepipeError):  # reported when a match is requested
                run.store.decoder.max()

    def _match(self, run: OpenRun, other: OpenRun, latent: int) -> bytes:
        if reason := incomparable(run, other):
            return _json({"latent": None, "reason": reason})
        return _match_json(nearest(run.store.decoder[latent], other.store.decoder))

    def _parse(self, name: str) -> tuple[OpenRun, str, list[int]] | None:
        parts = _NAME.fullmatch(name)
        if parts is None or int(parts[1]) >= len(self.runs):
            return None
        return self.runs[int(parts[1])], parts[2], [int(number) for number in parts.groups()[2:] if number]


def blocks_of(d_sae: int, kind: str) -> Iterator[range]:
    """Yields the latents of each block."""
    size = BLOCKS[kind]
    yield from (range(start, min(start + size, d_sae)) for start in range(0, d_sae, size))


def incomparable(run: OpenRun, other: OpenRun) -> str | None:
    """Returns why decoder rows of two runs cannot be compared; None if they can."""
    ours, theirs = run.store.info, other.store.info
    if ours.model.get("id") != theirs.model.get("id"):
        return f"it belongs to another model, {theirs.model.get('id')}"
    if ours.hook != theirs.hook or ours.d_in != theirs.d_in:
        return f"it belongs to another hook, {theirs.hook}"
    try:
        _ = run.store.decoder, other.store.decoder
    except SaepipeError as error:  # a run was moved away from its store, or is damaged
        return error.message
    return None


def _about(run: OpenRun) -> dict[str, Any]:
    return {"label": run.label} | asdict(run.store.info)


def _role(role: Role) -> dict[str, Any]:
    return {"text": role.text, "about": [role.metric, role.kind, *role.about], "named": role.named}


def _match_json(match: Match | None) -> bytes:
    if match is None:
        return _json({"latent": None, "reason": "this latent's decoder row is zero"})
    return _json({"latent": match.latent, "cosine": round(match.cosine, 4)})


def _packed(column: np.ndarray) -> str:
    """Encodes a column as little-endian float32 in base64; missing values are NaN."""
    return base64.b64encode(column.astype("<f4").tobytes()).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

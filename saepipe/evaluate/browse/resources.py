"""What the browser shows, as named resources: JSON that the server and the files of `--static` give alike.

runs                    the open runs
0/columns               of run 0: what its latents are sorted by, each (d_sae,) float32 in base64
0/tokens/3              the top tokens of its latents 3 * 1024 and on
0/roles                 by latent, what the evaluations found it to be
0/notes                 by latent, what people wrote of it
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

from saepipe.data.errors import ConfigError
from saepipe.evaluate.browse.counterpart import Match, nearest, nearest_of_all
from saepipe.evaluate.browse.latent_json import latent_json
from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.features.roles import Role
from saepipe.evaluate.features.store import FeatureStore

BLOCKS = {"tokens": 1024, "latent": 64, "match": 4096}
"""Latents of one resource of tokens, and of one file of `--static`."""

_NAME = re.compile(r"([0-9]{1,4})/([a-z]{1,9})(?:/([0-9]{1,9}))?(?:/([0-9]{1,9}))?")


@dataclass(frozen=True)
class OpenRun:
    """A run whose latents are looked at."""

    label: str
    store: FeatureStore
    roles: dict[int, list[Role]]
    notes: Notes

    @property
    def d_sae(self) -> int:
        return self.store.info.d_sae


class Resources:
    """All that can be asked of some runs. A name is looked up, run by run and latent by latent; it is never a path."""

    def __init__(self, runs: Sequence[OpenRun]) -> None:
        self.runs = tuple(runs)

    def get(self, name: str) -> bytes | None:
        """JSON; None where there is no such resource."""
        if name == "runs":
            return _json({"runs": [_about(run) for run in self.runs], "blocks": BLOCKS})
        if (asked := self._parsed(name)) is None:
            return None
        run, kind, numbers = asked
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
        """Whose note `0/notes/123` is; None where there is no such latent."""
        match self._parsed(name):
            case run, "notes", [latent] if latent < run.d_sae:
                return run.notes, latent
        return None

    def matches(self, run: OpenRun, other: OpenRun) -> Iterator[bytes]:
        """The `match` resources of all latents of `run`, in order."""
        if reason := incomparable(run, other):
            yield from (_json({"latent": None, "reason": reason}) for _ in range(run.d_sae))
        else:
            yield from map(_match_json, nearest_of_all(run.store.decoder, other.store.decoder))

    def warm(self) -> None:
        """Reads every decoder once, so that the first match need not wait for the disk."""
        for run in self.runs:
            with suppress(ConfigError):  # said to those who ask for a match
                run.store.decoder.max()

    def _match(self, run: OpenRun, other: OpenRun, latent: int) -> bytes:
        if reason := incomparable(run, other):
            return _json({"latent": None, "reason": reason})
        return _match_json(nearest(run.store.decoder[latent], other.store.decoder))

    def _parsed(self, name: str) -> tuple[OpenRun, str, list[int]] | None:
        found = _NAME.fullmatch(name)
        if found is None or int(found[1]) >= len(self.runs):
            return None
        return self.runs[int(found[1])], found[2], [int(number) for number in found.groups()[2:] if number]


def blocks_of(d_sae: int, kind: str) -> Iterator[range]:
    """The latents, block by block."""
    size = BLOCKS[kind]
    yield from (range(start, min(start + size, d_sae)) for start in range(0, d_sae, size))


def incomparable(run: OpenRun, other: OpenRun) -> str | None:
    """Why decoder rows of two runs cannot be compared; None where they can."""
    ours, theirs = run.store.info, other.store.info
    if ours.model.get("id") != theirs.model.get("id"):
        return f"it is of another model, {theirs.model.get('id')}"
    if ours.hook != theirs.hook or ours.d_in != theirs.d_in:
        return f"it is of another hook, {theirs.hook}"
    try:
        _ = run.store.decoder, other.store.decoder
    except ConfigError as error:  # a run was moved away from its store
        return error.message
    return None


def _about(run: OpenRun) -> dict[str, Any]:
    return {"label": run.label} | asdict(run.store.info)


def _role(role: Role) -> dict[str, Any]:
    return {"text": role.text, "about": [role.metric, role.kind, *role.about]}


def _match_json(match: Match | None) -> bytes:
    if match is None:
        return _json({"latent": None, "reason": "this latent's decoder row is zero"})
    return _json({"latent": match.latent, "cosine": round(match.cosine, 4)})


def _packed(column: np.ndarray) -> str:
    """Little-endian float32 in base64; what has no value is NaN."""
    return base64.b64encode(column.astype("<f4").tobytes()).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

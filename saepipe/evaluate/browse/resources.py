"""Content of the browser as named resources: JSON, the same from the server and in the files of `--static`.

runs                    the open runs
0/columns               of run 0: columns by which latents can be sorted, each (d_sae,) float32 in base64
0/tokens/3              top tokens of its latents from 3 * 1024 on, one block
0/roles                 by latent, its roles in the evaluations
0/notes                 by latent, people's notes
0/latent/123            one latent, with its examples
0/match/1/123           its counterparts in run 1, by decoder and by firing
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import permutations
from typing import Any

import numpy as np

from saepipe.data.errors import SaepipeError
from saepipe.evaluate.browse.latent_json import latent_json
from saepipe.evaluate.browse.matches import Matches
from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.features.roles import Role

BLOCKS = {"tokens": 1024, "latent": 64, "match": 4096}
"""Number of latents in one resource of tokens, and in one file of `--static`."""

_NAME = re.compile(r"([0-9]{1,4})/([a-z]{1,9})(?:/([0-9]{1,9}))?(?:/([0-9]{1,9}))?")


class Resources:
    """All resources of some runs. Names refer to runs and latents by number; they are never used as paths."""

    def __init__(self, runs: Sequence[OpenRun]) -> None:
        self.runs = tuple(runs)
        self.reads_text = False
        pairs = permutations(range(len(self.runs)), 2)
        self._matches = {(one, two): Matches(self.runs[one], self.runs[two]) for one, two in pairs}

    def get(self, name: str) -> bytes | None:
        """Returns a resource as JSON; None if it does not exist."""
        if name == "runs":
            return _json({"runs": [_about(run) for run in self.runs], "blocks": BLOCKS, "reads_text": self.reads_text})
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
                return _json(self._matches_of(run, self.runs[other]).get(latent))
        return None

    def note_of(self, name: str) -> tuple[Notes, int] | None:
        """Returns notes and latent of a name such as `0/notes/123`; None if there is no such latent."""
        match self._parse(name):
            case run, "notes", [latent] if latent < run.d_sae:
                return run.notes, latent
        return None

    def run(self, number: str) -> OpenRun | None:
        """Returns the run of a number such as `0`; None if there is none."""
        return self.runs[int(number)] if number in map(str, range(len(self.runs))) else None

    def matches(self, run: OpenRun, other: OpenRun) -> Iterator[bytes]:
        """Yields the `match` resources of all latents of `run`, in order."""
        yield from map(_json, self._matches_of(run, other).all())

    def warm(self) -> None:
        """Reads every decoder once, so that the first match does not wait for the disk."""
        for run in self.runs:
            with suppress(SaepipeError):  # reported when a match is requested
                run.store.decoder.max()

    def _matches_of(self, run: OpenRun, other: OpenRun) -> Matches:
        return Matches(run, other) if run is other else self._matches[self.runs.index(run), self.runs.index(other)]

    def _parse(self, name: str) -> tuple[OpenRun, str, list[int]] | None:
        parts = _NAME.fullmatch(name)
        if parts is None or int(parts[1]) >= len(self.runs):
            return None
        return self.runs[int(parts[1])], parts[2], [int(number) for number in parts.groups()[2:] if number]


def blocks_of(d_sae: int, kind: str) -> Iterator[range]:
    """Yields the latents of each block."""
    size = BLOCKS[kind]
    yield from (range(start, min(start + size, d_sae)) for start in range(0, d_sae, size))


def _about(run: OpenRun) -> dict[str, Any]:
    return {"label": run.label} | asdict(run.store.info)


def _role(role: Role) -> dict[str, Any]:
    return {"text": role.text, "about": [role.metric, role.kind, *role.about], "named": role.named}


def _packed(column: np.ndarray) -> str:
    """Encodes a column as little-endian float32 in base64; missing values are NaN."""
    return base64.b64encode(column.astype("<f4").tobytes()).decode()


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

"""What a push sends, made ready without any network: the runs' files, their card, and what is to be told of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.errors import ConfigError
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.card import card, said
from saepipe.evaluate.hub.contents import Contents, is_local
from saepipe.evaluate.hub.facts import Facts
from saepipe.train.rundir.load import open_run

CARD = "README.md"


@dataclass(frozen=True)
class Parcel:
    """Runs on their way to a folder of a repository, each to lie in `<variant>/seed-<n>/` below it."""

    address: Address
    files: Mapping[str, Path | bytes]
    """By their paths in the repository."""
    folders: tuple[str, ...]
    """Of the runs, in the repository."""
    card: str
    findings: tuple[str, ...]
    """Of the rules of health, errors before warnings."""
    local_paths: tuple[str, ...]
    """What the files tell of this machine."""
    left_out: tuple[str, ...]
    """Results of runs that lay there before."""

    @classmethod
    def pack(cls, runs: Sequence[Path | str], address: Address, licence: str | None, cache: Path | None) -> Parcel:
        """Opens each run, so its digests hold.

        Raises:
            ConfigError: if there is no run, two would lie in one place, or `cache` is another one than theirs.
            CorruptDataError: if a run is not finished, or damaged.
        """
        facts = [Facts.of(open_run(run), cache) for run in runs]
        if not facts:
            raise ConfigError("no run to push", hint="saepipe push RUN... --to hf://org/name")
        if twice := [label for label, count in Counter(known.label for known in facts).items() if count > 1]:
            raise ConfigError(f"two runs are called {twice[0]}", hint="push them to folders of their own")
        places = [address.within(known.label) for known in facts]
        page = card(list(zip(facts, places, strict=True)), licence)
        files: dict[str, Path | bytes] = {address.file(CARD): page.encode()}
        told = [f"{CARD}: {word}" for word in dict.fromkeys(page.replace("`", " ").split()) if is_local(word)]
        left_out: list[str] = []
        for known, place in zip(facts, places, strict=True):
            contents = Contents.of(known.run)
            files |= {place.file(name): known.run.path / name for name in contents.files}
            told += [f"{known.label}/{line}" for line in contents.local_paths]
            left_out += [f"{known.label}/{name}" for name in contents.left_out]
        return cls(
            address=address,
            files=files,
            folders=tuple(place.folder for place in places),
            card=page,
            findings=tuple(
                line for severity in ("error", "warning") for known in facts for line in said(known, severity)
            ),
            local_paths=tuple(told),
            left_out=tuple(left_out),
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain data, the files by their sizes in bytes."""
        sizes = {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }
        return {
            "repository": self.address.repo,
            "revision": self.address.revision or "main",
            "files": sizes,
            "bytes": sum(sizes.values()),
            "findings": list(self.findings),
            "local_paths": list(self.local_paths),
            "left_out": list(self.left_out),
            "card": self.card,
        }

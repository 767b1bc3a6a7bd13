"""Content of a push, prepared without a network: the runs' files, their card, and what to report about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saepipe.data.errors import ConfigError
from saepipe.data.remote.run_folders import run_folders
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.card import card, finding_lines
from saepipe.evaluate.hub.contents import Contents, is_local
from saepipe.evaluate.hub.facts import Facts
from saepipe.train.rundir.finished_run import open_run

CARD = "README.md"


@dataclass(frozen=True)
class Parcel:
    """Runs to be sent to a folder of a repository, each to `<variant>/seed-<n>/` below it."""

    address: Address
    files: Mapping[str, Path | bytes]
    """Contents by path in the repository."""
    folders: tuple[str, ...]
    """Folders of the runs in the repository."""
    card: str
    findings: tuple[str, ...]
    """Health findings, errors before warnings."""
    local_paths: tuple[str, ...]
    """Local paths of this machine in the files."""
    left_out: tuple[str, ...]
    """Results of earlier runs in the same folders."""

    @classmethod
    def pack(
        cls, runs: Path | str | Sequence[Path | str], address: Address, licence: str | None, cache: Path | None
    ) -> Parcel:
        """Prepares the push of some runs; opening them verifies their digests.

        Raises:
            ConfigError: if there is no run, two have the same label, or a run was not made from `cache`.
            CorruptDataError: if a run is unfinished or damaged.
        """
        all_facts = [Facts.of(open_run(run), cache) for run in run_folders(runs)]
        if not all_facts:
            raise ConfigError("no run to push", hint="saepipe push RUN... --to hf://org/name")
        if twice := [label for label, count in Counter(facts.label for facts in all_facts).items() if count > 1]:
            raise ConfigError(f"two runs are called {twice[0]}", hint="push them to different folders")
        addresses = [address.within(facts.label) for facts in all_facts]
        page = card(list(zip(all_facts, addresses, strict=True)), licence)
        files: dict[str, Path | bytes] = {address.file(CARD): page.encode()}
        paths = [f"{CARD}: {word}" for word in dict.fromkeys(page.replace("`", " ").split()) if is_local(word)]
        left_out: list[str] = []
        for facts, run_address in zip(all_facts, addresses, strict=True):
            contents = Contents.of(facts.run)
            files |= {run_address.file(name): facts.run.path / name for name in contents.files}
            paths += [f"{facts.label}/{line}" for line in contents.local_paths]
            left_out += [f"{facts.label}/{name}" for name in contents.left_out]
        return cls(
            address=address,
            files=files,
            folders=tuple(run_address.folder for run_address in addresses),
            card=page,
            findings=tuple(
                line for level in ("error", "warning") for facts in all_facts for line in finding_lines(facts, level)
            ),
            local_paths=tuple(paths),
            left_out=tuple(left_out),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, with the size of each file in bytes instead of its content."""
        sizes = {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }
        return {
            "repository": self.address.repo,
            "revision": self.address.revision or "main",
            "runs": list(self.folders),
            "files": sizes,
            "bytes": sum(sizes.values()),
            "findings": list(self.findings),
            "local_paths": list(self.local_paths),
            "left_out": list(self.left_out),
            "card": self.card,
        }

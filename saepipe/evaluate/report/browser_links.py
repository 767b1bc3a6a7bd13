"""Addresses of runs and latents in the feature browser; docs/browser.md has their form."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from saepipe.data.errors import ConfigError
from saepipe.evaluate.results.run_results import Row

_INDEX = "index.html"


@dataclass(frozen=True)
class BrowserLinks:
    """Links to a feature browser that has the runs of the page."""

    base: str

    @classmethod
    def find(cls, browse: Path | str, out: Path) -> BrowserLinks:
        """Returns links from the page `out` to a served browser's address, or to a folder of `browse --static`.

        Raises:
            ConfigError: if `browse` is neither.
        """
        if re.match(r"https?://", str(browse)):
            return cls(str(browse).partition("#")[0])
        index = Path(browse) if Path(browse).name == _INDEX else Path(browse) / _INDEX
        if not index.is_file():
            raise ConfigError(
                f"{browse} is neither an address nor a folder of the feature browser",
                hint="--browse http://127.0.0.1:PORT/, or a folder made by saepipe browse RUN... --static DIR",
            )
        return cls(quote(Path(os.path.relpath(index.resolve(), out.resolve().parent)).as_posix()))

    def run(self, row: Row) -> str:
        return f"{self.base}#run={quote(f'{row.run.variant}/seed-{row.run.seed}')}"

    def latent(self, row: Row, latent: int) -> str:
        return f"{self.run(row)}&latent={latent}"

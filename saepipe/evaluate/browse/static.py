"""Browser as files: the page, and the resources in scripts, since a page from file:// can load nothing else.

DIR/index.html ...          the page
DIR/data/0/latent/3.js      keep({"0/latent/192": ..., "0/latent/193": ..., ...})
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, permutations
from pathlib import Path

from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.browse.page import page_files
from saepipe.evaluate.browse.resources import Resources, blocks_of

INDEX, DATA = "index.html", "data"
Named = Iterable[tuple[str, bytes]]


def write_static(resources: Resources, folder: Path, progress: Progress) -> Path:
    """Writes `folder` and returns its index.html, which is written last: if it exists, the folder is complete.

    Raises:
        ConfigError: if `folder` holds something other than a feature browser.
    """
    is_ours = (folder / DATA / "runs.js").is_file()
    if folder.exists() and not is_ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{folder} holds something other than a feature browser", hint="choose another --static folder"
        )
    (folder / INDEX).unlink(missing_ok=True)
    _write(folder, "runs", [("runs", _existing(resources, "runs"))])
    for number, run in enumerate(resources.runs):
        _write_run(resources, number, run, folder, progress)
    for pair in permutations(range(len(resources.runs)), 2):
        _write_matches(resources, *pair, folder, progress)
    page = page_files("static")
    for name in sorted(page, key=lambda name: name == INDEX):
        artifact.write_file(folder / name, page[name])
    return folder / INDEX


def _write_run(resources: Resources, number: int, run: OpenRun, folder: Path, progress: Progress) -> None:
    tokens = [f"tokens/{block}" for block, _ in enumerate(blocks_of(run.d_sae, "tokens"))]
    for kind in ("columns", "roles", "notes", *tokens):
        _write(folder, f"{number}/{kind}", [(f"{number}/{kind}", _existing(resources, f"{number}/{kind}"))])
    progress.start(f"writing {run.label}", run.d_sae, "latents")
    for block, latents in enumerate(blocks_of(run.d_sae, "latent")):
        names = [f"{number}/latent/{latent}" for latent in latents]
        _write(folder, f"{number}/latent/{block}", [(name, _existing(resources, name)) for name in names])
        progress.advance(len(latents))
    progress.finish()


def _write_matches(resources: Resources, number: int, other: int, folder: Path, progress: Progress) -> None:
    run, target = resources.runs[number], resources.runs[other]
    progress.start(f"matching {run.label} with {target.label}", run.d_sae, "latents")
    matches = resources.matches(run, target)
    for block, latents in enumerate(blocks_of(run.d_sae, "match")):
        names = [f"{number}/match/{other}/{latent}" for latent in latents]
        _write(folder, f"{number}/match/{other}/{block}", zip(names, islice(matches, len(names)), strict=True))
        progress.advance(len(latents))
    progress.finish()


def _write(folder: Path, name: str, resources: Named) -> None:
    """Writes resources as a script with one call of `keep`; JSON is valid JavaScript."""
    entries = b",\n".join(b'"%b":%b' % (name.encode(), data) for name, data in resources)
    path = folder / DATA / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"keep({\n%b\n});\n" % entries)


def _existing(resources: Resources, name: str) -> bytes:
    data = resources.get(name)
    assert data is not None, name
    return data

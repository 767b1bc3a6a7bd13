"""Opens the feature browser on some runs: as a local server, or as a folder of files."""

from __future__ import annotations

import secrets
import webbrowser
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.remote.places import folder_of, publish, refresh
from saepipe.data.remote.run_folders import run_folders
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.browse.resources import Resources
from saepipe.evaluate.browse.static import write_static
from saepipe.evaluate.features.roles import roles
from saepipe.evaluate.features.store import FeatureStore

if TYPE_CHECKING:
    from saepipe.evaluate.browse.server import Reader

_PRINT = partial(print, flush=True)
"""Flushed, because a reader of a pipe waits for the address."""


def browse(
    runs: Path | str | Sequence[Path | str],
    *,
    port: int = 0,
    open_page: bool = False,
    static: Path | None = None,
    model: str | None = None,
    announce: Callable[[str], object] = _PRINT,
    progress: Progress | None = None,
) -> Path | None:
    """Serves the browser until Ctrl-C or SIGTERM; with `static`, writes it as files instead.

    Args:
        runs: run folders, each with the feature store that `saepipe evaluate` makes; the folder of a variant or study
            means all runs below it.
        port: port on 127.0.0.1; 0 picks a free one.
        open_page: open the address in the desktop's browser.
        static: folder for the files, or its address in a bucket.
        model: language model for texts of one's own: hub id, folder, or `auto`, the one that made the cache; None: no
            model is loaded.
        announce: receives the address, whose token grants access.
        progress: progress of writing the files.

    Returns:
        With `static`, its index.html.

    Raises:
        ConfigError: if a run has no feature store, `static` holds something else, or `model` is of none of the runs.
        CorruptDataError: if a store or the notes are damaged.
        MachineError: if the extra [browse] is not installed, or the port is taken.
    """
    resources = open_runs(runs)
    if static is not None:
        if model is not None:
            raise ConfigError("static files cannot read texts", hint="omit --model or --static")
        refresh(static := folder_of(static))
        index = write_static(resources, static, progress or Silent())
        publish(static)
        return index
    try:
        from saepipe.evaluate.browse.server import ADDRESS, application, listen, serve
    except ImportError as error:
        raise MachineError(f"browse needs {error.name}", hint="pip install 'saepipe[browse]'") from None
    own_text = _own_text(resources, model) if model else None
    listening = listen(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(24)  # 192 bits; the address still fits a line of 80 characters
    url = f"http://{ADDRESS}:{port}/?token={token}"
    announce(url)
    Thread(target=resources.warm, daemon=True).start()
    if open_page:
        webbrowser.open(url)
    serve(application(resources, token, port, own_text), listening)
    return None


def _own_text(resources: Resources, model: str) -> Reader:
    from saepipe.evaluate.browse.own_text import open_model  # needs torch and transformers

    resources.reads_text = True
    return open_model(model, resources.runs).read


def open_runs(runs: Path | str | Sequence[Path | str]) -> Resources:
    """Opens each run's store and roles, and reads its notes once, so that damage is reported at the start."""
    folders = run_folders(runs)
    if not folders:
        raise ConfigError("no run was given", hint="saepipe browse RUN...")
    stores = [FeatureStore.open(folder) for folder in folders]
    names = [f"{store.info.variant}/seed-{store.info.seed}" for store in stores]
    count = Counter(names)
    labels = [name if count[name] == 1 else str(run) for name, run in zip(names, folders, strict=True)]
    opened = []
    for label, run, store in zip(labels, folders, stores, strict=True):
        notes = Notes(run, store.info.run)
        notes.read()
        opened.append(OpenRun(label, store, roles(run), notes))
    return Resources(opened)

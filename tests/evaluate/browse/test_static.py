"""The files contain the same resources as the server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.runs_to_browse import D_SAE
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.browse.page import page_files
from saepipe.evaluate.browse.resources import BLOCKS, Resources
from saepipe.evaluate.browse.static import write_static


def names(resources: Resources) -> set[str]:
    """Names of all resources."""
    all_names, numbers = {"runs"}, range(len(resources.runs))
    for run in numbers:
        all_names |= {f"{run}/{kind}" for kind in ("columns", "roles", "notes", "tokens/0")}
        all_names |= {f"{run}/latent/{latent}" for latent in range(D_SAE)}
        all_names |= {f"{run}/match/{other}/{latent}" for other in numbers if other != run for latent in range(D_SAE)}
    return all_names


def kept(folder: Path) -> dict[str, bytes]:
    """Bytes of each resource, one per line in scripts with a single call."""
    resources: dict[str, bytes] = {}
    for path in (folder / "data").rglob("*.js"):
        script = path.read_bytes()
        assert script.startswith(b"keep({\n")
        assert script.endswith(b"\n});\n")
        json.loads(script[len(b"keep(") : -len(b");\n")])
        for line in script.removeprefix(b"keep({\n").removesuffix(b"\n});\n").split(b",\n"):
            name, data = line.split(b":", 1)
            resources[json.loads(name)] = data
    return resources


def test_files_and_server_have_the_same_bytes(resources: Resources, tmp_path: Path) -> None:
    resources.runs[0].notes.write(4, "a note")
    index = write_static(resources, tmp_path / "site", Silent())
    stored = kept(index.parent)
    assert stored.keys() == names(resources)
    for name, data in stored.items():
        assert data == resources.get(name), name
    files = -(-D_SAE // BLOCKS["latent"])
    assert len(list((tmp_path / "site/data/0/latent").iterdir())) == files


def test_the_page_differs_from_the_servers_in_its_source_only(resources: Resources, tmp_path: Path) -> None:
    folder = write_static(resources, tmp_path / "site", Silent()).parent
    for name, data in page_files("server").items():
        assert ((folder / name).read_bytes() == data) == (name != "source.js"), name


def test_only_an_earlier_browser_is_overwritten(resources: Resources, tmp_path: Path) -> None:
    write_static(resources, tmp_path / "site", Silent())
    assert write_static(resources, tmp_path / "site", Silent()).is_file()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.html").write_text("mine")
    with pytest.raises(ConfigError, match="holds something other than a feature browser"):
        write_static(resources, tmp_path / "thesis", Silent())
    assert (tmp_path / "thesis" / "index.html").read_text() == "mine"
    with pytest.raises(ConfigError, match="holds something other than a feature browser"):
        write_static(resources, tmp_path / "thesis" / "index.html", Silent())

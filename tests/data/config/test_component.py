"""Component families: members by name, nearest names, plugins, and settings that survive a round trip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.repository import EXAMPLES
from saepipe.data.config.base import Config
from saepipe.data.config.component import ConfigWithPlugins, import_plugins
from saepipe.data.errors import ConfigError
from saepipe.train.penalties.base import Penalty


class Holder(Config):
    penalties: tuple[Penalty, ...] = ()


def test_a_member_is_chosen_by_name_and_dumped_in_full() -> None:
    holder = Holder.parse({"penalties": [{"name": "l1", "weight": 0.25}]})
    assert type(holder.penalties[0]).__name__ == "L1"
    dumped = holder.to_dict()["penalties"][0]
    assert dumped["name"] == "l1"
    assert dumped["weight"] == 0.25
    assert dumped.keys() == type(holder.penalties[0]).model_fields.keys()
    assert Holder.parse(holder.to_dict()) == holder


def test_unknown_members_and_settings_suggest_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        Holder.parse({"penalties": [{"name": "l11"}, {"name": "l1", "wieght": 2}, {"weight": 1}]})
    message = str(caught.value)
    assert "no penalty called 'l11'; did you mean 'l1'?" in message
    assert "unknown key 'penalties.1.wieght'; did you mean 'weight'?" in message
    assert "the penalty needs a name" in message


def test_a_plugin_file_joins_the_family(tmp_path: Path) -> None:
    source = Path(__import__("saepipe.train.penalties.l1", fromlist=["l1"]).__file__).read_text()
    plugin = tmp_path / "mine.py"
    plugin.write_text(source.replace('"l1"', '"mine"').replace("class L1", "class Mine"))
    import_plugins([plugin])
    import_plugins([plugin])  # a second config may name it again
    assert Holder.parse({"penalties": [{"name": "mine", "weight": 1}]}).penalties[0].name == "mine"
    Penalty.members.pop("mine")


def test_plugins_are_a_list() -> None:
    with pytest.raises(ConfigError, match="plugins = 'mine.py'"):
        ConfigWithPlugins.parse({"plugins": "mine.py"})


@pytest.mark.parametrize("text", [None, "import nothing_of_this_name"])
def test_a_plugin_that_is_missing_or_broken_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "broken.py"
    if text:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.py"):
        import_plugins([path])


def test_an_installed_package_joins_by_its_entry_point(tmp_path: Path) -> None:
    """In a separate process, because entry points are read only once."""
    source = (EXAMPLES / "hoyer.py").read_text()
    (tmp_path / "third_party.py").write_text(source)
    metadata = tmp_path / "third_party-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[saepipe.components]\nhoyer = third_party\n")
    code = "from saepipe.train.penalties.base import Penalty; print(Penalty.member('hoyer').__module__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "third_party"

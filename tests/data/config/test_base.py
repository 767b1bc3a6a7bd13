"""Configs: all mistakes at once, with line numbers and the nearest valid names; overrides; counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from saepipe.data.config.base import Config, Count, differences, fingerprint
from saepipe.data.errors import ConfigError

pytestmark = pytest.mark.quick


class Inner(Config):
    threshold: float = Field(0.5, le=1)
    names: tuple[str, ...] = ()


class Outer(Config):
    num_tokens: Count = 10
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return Outer.load(path, overrides)


@pytest.mark.parametrize(
    ("text", "value"), [("10M", 10_000_000), ("300k", 300_000), ("1.5B", 1_500_000_000), ("1e6", 1_000_000), ("7", 7)]
)
def test_counts(tmp_path: Path, text: str, value: int) -> None:
    assert load(tmp_path, f"num_tokens: {text}").num_tokens == value


def test_all_mistakes_in_one_error_with_lines_and_names(tmp_path: Path) -> None:
    text = "num_token: 3\ninner:\n  treshold: 0.1\n  threshold: 7\nparts:\n  - threshold: 0.1\n  - names: 5\n"
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert "4 mistakes" in message
    assert "c.yaml:1: unknown key 'num_token'; did you mean 'num_tokens'?" in message
    assert "c.yaml:3: unknown key 'inner.treshold'; did you mean 'threshold'?" in message
    assert "c.yaml:4: inner.threshold = 7: must be at most 1" in message
    assert "c.yaml:7: parts.1.names = 5" in message


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml:3: duplicate key 'inner\.threshold', first on line 2"):
        load(tmp_path, "inner:\n  threshold: 0.1\n  threshold: 0.2\n")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"num_tokens: \xff\xfe")
    with pytest.raises(ConfigError, match="cannot read"):
        Outer.load(path)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1, 2"])
def test_a_file_that_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path, text)


def test_overrides_reach_into_mappings_and_lists(tmp_path: Path) -> None:
    config = load(
        tmp_path, "parts: [{threshold: 0.1}]\n", "inner.threshold=0.9", "parts.0.names=[a, b]", "num_tokens=2k"
    )
    assert config.inner.threshold == 0.9
    assert config.parts[0].names == ("a", "b")
    assert config.num_tokens == 2000


@pytest.mark.parametrize("override", ["threshold", "=3", "parts.3.threshold=1", "parts.x=1", "parts=[a"])
def test_overrides_that_lead_nowhere_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load(tmp_path, "parts: [{threshold: 0.1}]\n", override)


def test_a_config_survives_a_round_trip_through_yaml(tmp_path: Path) -> None:
    config = load(tmp_path, "num_tokens: 5k\nparts: [{threshold: 0.25, names: [x]}]\n")
    assert load(tmp_path, config.to_yaml()) == config
    assert fingerprint(load(tmp_path, config.to_yaml()).to_dict()) == fingerprint(config.to_dict())


def test_differences_list_the_leaves() -> None:
    old, new = {"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 1, "c": [1, 3]}, "d": None}
    assert differences(old, new) == ["a.c.1: 2 -> 3", "d: '(absent)' -> None"]

"""Configs that someone got wrong, or wrong on purpose: each is a ConfigError in words, soon, and never another one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saepipe.data.config import yaml_text
from saepipe.data.config.base import Config, flatten
from saepipe.data.config.yaml_file import apply_override
from saepipe.data.errors import ConfigError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.validate.config import ValidateConfig
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config import TrainConfig
from saepipe.train.variants import expand

TRAIN = {"cache": "c", "sae": {"name": "topk", "d_sae": 8, "k": 2}, "steps": 5}
CONFIGS: dict[type[Config], dict[str, Any]] = {
    HarvestConfig: {},
    TrainConfig: {
        **TRAIN,
        "penalties": [
            {"name": "l1", "weight": {"start": 1.0, "end": 0.1}},
            {"name": "ortsae", "weight": 0.1},
            {"name": "tanh", "weight": {"steer": "l0", "to": 4, "start": 0.1}},
        ],
        "transforms": [{"name": "latent_dropout"}],
        "variants": [{"name": "a", "penalties.0.weight": 2}],
        "seeds": [0, 1],
    },
    EvaluateConfig: {},
    ValidateConfig: {},
}


def read(config: type[Config], path: Path) -> Config:
    """Reads a config file and does with it what every command does first."""
    read_config = config.load(path)
    read_config.to_yaml().encode()
    if isinstance(read_config, TrainConfig):
        for run in expand(read_config):
            run.config.num_steps(10_000)
    return read_config


def bomb(levels: int) -> str:
    """Nine aliases of nine aliases ...; 6 levels stand for half a million values."""
    lists = "".join(f"  - &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, levels))
    return f"variants:\n  - &l0 [x, x, x, x, x, x, x, x, x]\n{lists}"


REFUSED: dict[str, tuple[type[Config], str]] = {
    "an unknown tag": (HarvestConfig, "seed: !mine 3"),
    "a Python tag": (HarvestConfig, "seed: !!python/object:builtins.int 3"),
    "text tagged as a number": (HarvestConfig, "seed: !!int abc"),
    "nothing tagged as a number": (HarvestConfig, "seed: !!int ''"),
    "text tagged as a truth value": (HarvestConfig, "seed: !!bool maybe"),
    "a number tagged as a time": (HarvestConfig, "seed: !!timestamp 5"),
    "bytes": (HarvestConfig, "seed: !!binary aGVsbG8="),
    "a date that does not exist": (HarvestConfig, "seed: 2001-99-99"),
    "a merge with a number": (HarvestConfig, "<<: 3"),
    "400 digits": (HarvestConfig, f"seed: {'9' * 400}"),
    "5,000 digits": (HarvestConfig, f"num_tokens: {'9' * 5000}"),
    "400 digits in thousands": (HarvestConfig, f"num_tokens: {'9' * 400}k"),
    "digits that are not ASCII": (HarvestConfig, "num_tokens: ٣k"),
    "a list as a key": (HarvestConfig, "[1, 2]: 3"),
    "a number as a key": (HarvestConfig, "1: 3"),
    "a mapping as a key": (HarvestConfig, "? {a: 1}\n: 3"),
    "an alias within its own value": (TrainConfig, "variants: &a [*a]"),
    "a merge within its own value": (TrainConfig, "variants: &a {grid: {<<: *a}}"),
    "many aliases of many aliases": (TrainConfig, bomb(6)),
    "deep nesting": (TrainConfig, f"variants: {'[' * 500}{']' * 500}"),
    "deep nesting in lines": (TrainConfig, "".join(f"{' ' * level}a:\n" for level in range(60))),
    "many values": (TrainConfig, f"variants: [{'0,' * 30_000}]"),
    "two documents": (HarvestConfig, "seed: 1\n---\nseed: 2"),
    "an undefined alias": (HarvestConfig, "seed: *nothing"),
    "a NUL": (HarvestConfig, 'model: {model: "a\\0b"}'),
    "half a character": (HarvestConfig, 'model: {model: "\\ud800"}'),
    "a hook with a digit that is not ASCII": (HarvestConfig, "hooks: [blocks.٣.hook_resid_post]"),
    "one hook, spelled in two ways": (HarvestConfig, "hooks: [blocks.2.hook_resid_post, blocks.02.hook_resid_post]"),
    "one hook twice": (HarvestConfig, "hooks: [blocks.2.hook_resid_post, blocks.2.hook_resid_post]"),
    "a layer beyond any model": (HarvestConfig, f"hooks: [blocks.{'9' * 30}.hook_resid_post]"),
    "a device without memory": (HarvestConfig, "model: {device: meta}"),
    "a device number beyond any": (TrainConfig, "device: 'cuda:99999999999'"),
    "true as a number": (HarvestConfig, "num_tokens: true"),
    "true in a list of numbers": (TrainConfig, "seeds: [0, true]"),
    "true as a share": (HarvestConfig, "heldout_share: false"),
    "true as an effect": (TrainConfig, "primary_metrics: {delta_ce: true}"),
    "a number as a plugin": (TrainConfig, "plugins: [5]"),
    "a plugin with an impossible name": (TrainConfig, f"plugins: [{'x' * 300}.py]"),
    "an impossible path": (TrainConfig, f"cache: {'x' * 300}"),
    "a long path": (TrainConfig, f"cache: {'x/' * 3000}"),
    "a model with an impossible name": (HarvestConfig, f"model: {{model: {'x' * 300}}}"),
    "a dataset with an impossible name": (HarvestConfig, f"dataset: {{source: {'x' * 300}.txt}}"),
    "a variant with a long name": (TrainConfig, f"variants: [{{name: {'x' * 300}}}]"),
    "a variant above its folder": (TrainConfig, "variants: [{name: ..}]"),
    "a component whose name is a list": (TrainConfig, "penalties: [{name: [l1], weight: 1}]"),
    "a component whose name is long": (TrainConfig, f"penalties: [{{name: {'x' * 9000}, weight: 1}}]"),
    "a negative seed": (TrainConfig, "seed: -1"),
    "a seed of 1e23": (TrainConfig, "seed: 1.0e+23"),
    "negative seeds": (TrainConfig, "seeds: [-1]"),
    "epochs of 1e308": (TrainConfig, "steps: null\nepochs: 1.0e+308"),
    "more latents than fit anywhere": (TrainConfig, "sae: {name: relu, d_sae: 1e11}"),
    "a batch that fits nowhere": (TrainConfig, "batch_size: 1e12"),
    "a batch of contexts that fits nowhere": (HarvestConfig, "batch_size: 1000000000000"),
    "more tokens than there will be": (HarvestConfig, "num_tokens: 1e30"),
    "more variants than can be": (
        TrainConfig,
        "variants: {grid: {" + ", ".join(f"k{key}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for key in range(9)) + "}}",
    ),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_words(path: Path, case: str) -> None:
    config, text = REFUSED[case]
    keys = {line.partition(":")[0] for line in text.splitlines()}
    start = {key: value for key, value in (TRAIN if config is TrainConfig else {}).items() if key not in keys}
    path.write_text(f"{yaml.safe_dump(start) if start else ''}{text}\n")
    with pytest.raises(ConfigError) as caught:
        read(config, path)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


@pytest.mark.parametrize("text", ["!!int abc", "&a [*a]", "9" * 5000, "[" * 500, "2: 3: 4", "!mine x", "{1: 2}"])
def test_an_override_is_read_by_the_same_rules(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_override({}, f"a={text}")
    assert len(str(caught.value)) < 600


def test_an_override_with_a_deep_key_is_refused() -> None:
    with pytest.raises(ConfigError, match="a key of 5,?001 parts"):
        apply_override({}, f"{'a.' * 5000}b=1")


def test_an_endless_file_is_read_up_to_a_limit() -> None:
    with pytest.raises(ConfigError, match="more than|special characters"):
        HarvestConfig.load(Path("/dev/zero"))


def test_plain_data_stays_as_it_was(path: Path) -> None:
    path.write_text(
        "dataset: {revision: 2024-01-31}\nseed: 0x10\nnum_tokens: 1e6\nheldout_share: 1e-1\n"
        "model: &model {dtype: float32}\n"
    )
    config = HarvestConfig.load(path)
    assert (config.dataset.revision, config.seed, config.num_tokens) == ("2024-01-31", 16, 1_000_000)
    assert (config.heldout_share, config.model.dtype) == (0.1, "float32")
    value = {"a": [1, 2.5, None, True, "yes", "2024-01-31", "=", "<<", ""], "b": {"c": "٣"}}
    assert yaml_text.construct(yaml_text.compose(yaml.safe_dump(value), "text")) == value


WORDS = [
    *("a", "null", "~", "true", "-1", "1e400", ".inf", ".nan", "9" * 45, "é", "\u2028", "٣", "2001-99-99", "..", "\\"),
    *("[", "]", "{", "}", ": ", ", ", "\n", "  ", "- ", "&a ", "*a", "<<: ", "!!int ", "!!float ", "!x ", "? ", "| "),
    *("> ", "'", '"', "#", "%", "---", "0o7", "1:30", "=", "\t"),
]
"""Fragments that mean something in YAML."""
NUMBERS = [10**12, -(10**12), 10**30, 1e308, 1e-308, "10M", "1e12"]
LEAVES = (
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(WORDS)),
    *(st.sampled_from(NUMBERS), st.sampled_from(["x" * 300, "..", "/", "blocks.1.hook_resid_post"])),
)
VALUES = st.recursive(
    st.one_of(*LEAVES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@cache
def keys_of(config: type[Config]) -> list[str]:
    """The dotted keys of a config's values, and of the lists and mappings that hold them."""
    leaves = [key for key, _ in flatten(config.parse(CONFIGS[config]).to_dict())]
    return sorted(
        {".".join(parts[:n]) for key in leaves if (parts := key.split(".")) for n in range(1, len(parts) + 1)}
    )


quickly = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("config", CONFIGS)
@quickly
@given(data=st.data())
def test_any_value_at_any_key(config: type[Config], path: Path, data: st.DataObject) -> None:
    raw = config.parse(CONFIGS[config]).to_dict()
    for key in data.draw(st.lists(st.sampled_from(keys_of(config)), min_size=1, max_size=2)):
        *parents, last = key.split(".")
        node: Any = raw
        for part in parents:
            node = node.get(part, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict):
            node[last] = data.draw(VALUES)
    path.write_text(yaml.dump(raw, Dumper=yaml.SafeDumper))
    assert outcome(config, path)


@pytest.mark.parametrize("config", CONFIGS)
@quickly
@given(parts=st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=12), head=st.booleans())
def test_any_text(config: type[Config], path: Path, parts: list[str], head: bool) -> None:
    """It parses, or is a ConfigError."""
    start = yaml.safe_dump(CONFIGS[config] or {"seed": 0}) if head else ""
    path.write_text(start + "".join(parts), encoding="utf-8", errors="surrogatepass")
    assert outcome(config, path)


def outcome(config: type[Config], path: Path) -> bytes:
    """Returns what the user would see: success, or a refusal in words. No other exception is caught."""
    try:
        read(config, path)
    except ConfigError as error:
        return str(error).encode()
    return b"success"

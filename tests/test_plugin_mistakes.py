"""A mistake in a plugin is told with the plugin's file and line, and exit code 2, before any training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from saepipe.cli import main
from saepipe.data.config.component import import_plugins
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.metrics.base import Metric
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture
from saepipe.train.transforms.base import Transform

PENALTY = """
from typing import Literal
from saepipe.train.penalties.base import Penalised, Penalty
class Mine(Penalty):
    name: Literal["{name}"] = "{name}"
    def __call__(self, ctx, state, now):
        value = ctx.acts_sum.sum() / len(ctx.x)
        {line}
        return Penalised(value, {{}}, state)
"""
TRANSFORM = """
from typing import Literal
from saepipe.train.transforms.base import Transform, Transformed
class Mine(Transform):
    name: Literal["{name}"] = "{name}"
    def __call__(self, codes, state, now):
        acts = codes.acts
        {line}
        return Transformed(acts, {{}}, state)
"""
ARCHITECTURE = """
from typing import Literal
from saepipe.train.sae.base import Architecture
class Mine(Architecture):
    name: Literal["{name}"] = "{name}"
    def activate(self, params, pre_acts):
        acts = pre_acts.relu()
        {line}
        return acts
"""
METRIC = """
from typing import Literal
from saepipe.evaluate.metrics.base import Measurement, Metric
class Mine(Metric):
    name: Literal["{name}"] = "{name}"
    eval_type_id, version = "{name}", 1
    def measure(self, subjects, testbed, progress):
        answer = [Measurement({{"core": {{"l0": 1.0}}}}) for _ in subjects]
        {line}
        return answer
"""
TRAINED = {
    "penalty, a typo": (
        PENALTY,
        "ctx.actss",
        8,
        "AttributeError: 'StepContext' object has no attribute 'actss'; did you mean 'acts'?",
    ),
    "penalty, no scalar": (PENALTY, "value = ctx.acts_sum", 6, "as value a tensor of shape (40,); wanted: a scalar"),
    "penalty, no tensor": (PENALTY, "value = 5", 6, "as value a int (5); wanted: a scalar tensor, shape ()"),
    "penalty, detached": (PENALTY, "value = value.detach()", 6, "(gradient): it has no gradient for any tensor"),
    "penalty, no answer": (PENALTY, "return None", 6, "gave None; wanted: a Penalised"),
    "penalty, a sum": (PENALTY, "value = value * len(ctx.x)", 6, "(batch size): it is"),
    "penalty, an axis": (PENALTY, "(ctx.W_enc @ ctx.W_enc)", 8, "it may confuse two of these axes"),
    "penalty, a rank": (PENALTY, "ctx.x.unknown_dim(5)", 8, "AttributeError"),
    "transform, a typo": (TRANSFORM, "codes.preacts", 8, "has no attribute 'preacts'"),
    "transform, a shape": (TRANSFORM, "acts = acts.sum(1)", 6, "wanted: a tensor (batch, d_sae), shape (17, 40)"),
    "transform, no answer": (TRANSFORM, "return acts", 6, "wanted: a Transformed"),
    "architecture, a typo": (ARCHITECTURE, "pre_act", 8, "name 'pre_act' is not defined"),
    "architecture, a shape": (ARCHITECTURE, "acts = acts[:, :3]", 6, "activations a tensor of shape (17, 3); wanted"),
}
MEASURED = {
    "a typo": ("subject", 9, "name 'subject' is not defined"),
    "no list": ("return answer[0]", 7, "wanted: a list of Measurement, one per subject"),
    "too few": ("answer = []", 7, "gave 0 measurements; wanted: 1, one per subject"),
    "no number": ("answer[0].metrics['core']['l0'] = 'high'", 7, "as core.l0 a str (high); wanted: a float"),
}
IMPORTED = {
    "no such method": (PENALTY.replace("__call__", "call"), "pass", "penalty imported_0 lacks __call__"),
    "no syntax": (PENALTY, "value = = 5", "imported_1.py:8 fails to import: SyntaxError"),
    "an import": ("import numpyy\n" + PENALTY, "pass", "imported_2.py:1 fails to import: ModuleNotFoundError"),
    "no version": (METRIC.replace(", version", "").replace(", 1", ""), "pass", "metric Mine lacks version"),
}


def write(folder: Path, source: str, name: str, line: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(source.format(name=name, line=line))
    return path


def config(folder: Path, cache: Path, plugin: Path, source: str) -> Path:
    """Writes a training config that uses the plugin as what it is."""
    sae = plugin.stem if source is ARCHITECTURE else "relu"
    raw = f"cache: {cache}\nplugins: [{plugin}]\nsae: {{name: {sae}, d_sae: 40}}\nsteps: 20\nbatch_size: 17\n"
    if source is not ARCHITECTURE:
        key = "transforms" if source is TRANSFORM else "penalties"
        raw += f"{key}: [{{name: {plugin.stem}{'' if source is TRANSFORM else ', weight: 1'}}}]\n"
    (folder / "train.yaml").write_text(raw)
    return folder / "train.yaml"


@pytest.fixture(autouse=True)
def own_plugins_only() -> Iterator[None]:
    """Takes the plugins of a test back, since other tests look at every member of a family."""
    yield
    for family in (Architecture, Metric, Penalty, Transform):
        for name, member in list(family.members.items()):
            if name.startswith(("trained_", "validated_", "measured_", "imported_")):
                assert not member.__module__.startswith("saepipe.")
                del family.members[name]


@pytest.mark.parametrize("mistake", TRAINED)
def test_train_says_where_before_it_begins(
    mistake: str, tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, line, number, said = TRAINED[mistake]
    plugin = write(tmp_path, source, f"trained_{list(TRAINED).index(mistake)}", line)
    arguments = ["train", "-c", str(config(tmp_path, tiny_cache, plugin, source)), "--out", str(tmp_path / "runs")]
    assert main(arguments) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"{plugin}:{number}" in err
    assert said in err
    assert ("axes" in err) == (mistake == "penalty, an axis")
    assert not list(tmp_path.glob("runs/*/*/metrics.jsonl"))


@pytest.mark.parametrize("mistake", [mistake for mistake in TRAINED if TRAINED[mistake][0] is PENALTY])
def test_validate_says_where(mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, line, number, said = TRAINED[mistake]
    plugin = write(tmp_path, source, f"validated_{list(TRAINED).index(mistake)}", line)
    settings = ["--set", f"plugins=[{plugin}]", "--set", "processes=1", "--out", str(tmp_path / "out")]
    assert main(["validate", plugin.stem, *settings]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert f"{plugin}:{number}" in err
    assert said in err or mistake == "penalty, an axis"


@pytest.mark.parametrize("mistake", MEASURED)
def test_a_metric_says_where(mistake: str, tmp_path: Path) -> None:
    line, number, said = MEASURED[mistake]
    plugin = write(tmp_path, METRIC, f"measured_{list(MEASURED).index(mistake)}", line)
    import_plugins([plugin])
    metric = Metric.member(plugin.stem).model_validate({"name": plugin.stem})
    assert isinstance(metric, Metric)
    with pytest.raises(ConfigError) as raised:
        metric.measured([None], None, Silent())  # type: ignore[list-item, arg-type] # it never looks at them
    assert f"{plugin}:{number}" in raised.value.message
    assert said in raised.value.message


@pytest.mark.parametrize("mistake", IMPORTED)
def test_a_plugin_that_cannot_be_loaded(
    mistake: str, tiny_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, line, said = IMPORTED[mistake]
    plugin = write(tmp_path, source, f"imported_{list(IMPORTED).index(mistake)}", line)
    assert main(["train", "-c", str(config(tmp_path, tiny_cache, plugin, source))]) == 2
    assert said in " ".join(capsys.readouterr().err.split())

"""The Python API (`import saepipe as sp`): stages as functions, and objects displayed in notebooks."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import saepipe as sp
from helpers.made_results import write_core, write_run
from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.folders.health import Finding, Health
from saepipe.harvest.config import HarvestConfig

STUDY = {
    "hook": "blocks.2.hook_resid_post",
    "sae": {"name": "relu", "d_sae": 32},
    "penalties": [{"name": "l1", "weight": 0.5}],
    "steps": 4,
    "batch_size": 64,
}
RUNS = (("a", 8, 0.9), ("b", 9, None))


def test_a_study_in_python(toy_config: HarvestConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = toy_config.to_dict() | {"hooks": ["blocks.2.hook_resid_post"], "num_tokens": 2000, "heldout_tokens": 500}
    cache = sp.harvest(plain, tmp_path / "cache")
    assert isinstance(cache, sp.Cache)
    assert cache[:5].shape == (5, 128)
    study = tmp_path / "study.yaml"
    study.write_text(f"cache: {cache.path}\n" + "".join(f"{key}: {value}\n" for key, value in STUDY.items()))
    (run,) = sp.train(str(study), str(tmp_path / "runs"))
    (result,) = sp.evaluate([str(run)], {"metrics": [{"name": "core"}], "features": None})
    assert result == run / "eval" / "core.json"
    assert sp.load(run).d_sae == 32
    assert sp.compare([run]).rows[0][0] == "base/seed-0"
    assert '"task": "harvest train"' in capsys.readouterr().err  # progress is printed


def test_a_config_is_accepted_as_path_mapping_or_object(tmp_path: Path) -> None:
    path = tmp_path / "harvest.yaml"
    path.write_text("num_tokens: 5k\n")
    config = HarvestConfig.of(path)
    assert config.num_tokens == 5000
    assert HarvestConfig.of(str(path)) == HarvestConfig.of({"num_tokens": 5000}) == HarvestConfig.of(config) == config
    with pytest.raises(ConfigError, match="did you mean 'num_tokens'"):
        HarvestConfig.of({"num_token": 5})


def test_objects_have_text_and_html_for_notebooks(tiny_cache: Path, tmp_path: Path) -> None:
    cache = sp.open_cache(tiny_cache)
    assert "tokens" in repr(cache)
    assert "8,200" in repr(cache)
    assert "<td>8,200</td>" in cache._repr_html_()
    health = Health((Finding("H1", "error", "l1 was <b>0</b>"),))
    folder = write_core(write_run(tmp_path / "a" / "seed-0", health=health))
    run = sp.open_run(folder)
    assert "H1 error (inert penalty): l1 was <b>0</b>" in repr(run)
    assert "l1 was &lt;b&gt;0&lt;/b&gt;" in run._repr_html_()
    html = sp.compare([folder])._repr_html_()
    assert '<th scope="row">a/seed-0</th>' in html
    assert "0.9 ±0.01" in html
    assert "&lt;b&gt;" in html


def test_a_cache_has_a_length_a_shape_and_rows(tiny_cache: Path) -> None:
    cache = sp.open_cache(tiny_cache)
    assert (len(cache), cache.shape) == (8200, (8200, 24))
    assert next(iter(cache)).shape == (24,)


def test_a_comparison_is_text_data_and_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [write_core(write_run(tmp_path / name / "seed-0", d_sae=size), ev=ev) for name, size, ev in RUNS]
    table = sp.compare(runs, baseline=runs[0])
    text = str(table)
    assert repr(table) == text
    assert max(map(len, text.splitlines())) <= 80
    for expected in ("explained variance", "0.9 ±0.01", "undefined", "± and [ ]"):
        assert expected in text
    assert table.to_dict()["rows"][0][0] == "a/seed-0"
    frame = table.to_pandas()
    assert list(frame.index) == ["a/seed-0", "b/seed-0"]
    assert list(frame["explained_variance"].isna()) == [False, True]
    assert list(frame["l0_low"]) == [9.0, 9.0]
    assert frame.loc["b/seed-0", "l0_difference"] == 0
    assert "delta_ce_low" not in frame.columns  # no figure of this name has an interval
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MachineError, match="needs pandas"):
        table.to_pandas()


def test_the_folder_of_a_study_stands_for_its_runs(tmp_path: Path) -> None:
    runs = [write_core(write_run(tmp_path / name / f"seed-{seed}")) for name in "ab" for seed in range(2)]
    assert sp.compare(tmp_path, tmp_path / "a").to_dict() == sp.compare(runs, runs[0]).to_dict()
    assert sp.compare([tmp_path / "b", runs[1]]).to_dict() == sp.compare([*runs[2:], runs[1]]).to_dict()
    pages = [tmp_path / name for name in ("folder.html", "runs.html")]
    sp.report(str(tmp_path), pages[0])
    sp.report(runs, pages[1])
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_every_public_name_can_be_called() -> None:
    assert sorted(sp.__all__) == dir(sp)
    for name in sp.__all__:
        assert callable(getattr(sp, name)), name
    with pytest.raises(AttributeError, match="'harvests'"):
        sp.harvests  # noqa: B018


def test_a_stage_can_be_called_before_and_after_its_parts_are_imported() -> None:
    code = (
        "import saepipe as sp; print(callable(sp.train)); import saepipe.train.run; print(callable(sp.train)); "
        "from saepipe.train.rundir import folder; print(folder.label.__name__)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["True", "True", "label"]


@pytest.mark.parametrize("name", ["harvest", "train", "evaluate"])
def test_a_stage_has_the_signature_and_the_docstring_of_its_function(name: str) -> None:
    stage, function = getattr(sp, name), getattr(import_module(f"saepipe.{name}.run"), name)
    assert inspect.signature(stage) == inspect.signature(function)
    assert inspect.signature(stage.__call__) == inspect.signature(function)  # which a notebook's Shift-Tab shows too
    heading, _, rest = stage.__doc__.partition("\n\n")
    assert rest == inspect.getdoc(function)
    first = next(iter(inspect.signature(function).parameters))
    assert heading.startswith(f"{name}({first}: ")
    assert "'" not in heading.replace("'auto'", "").replace("'cache'", "").replace("'runs'", "")
    assert len(heading) < 400  # a default config is shown by what differs from the defaults: nothing
    assert heading in pydoc.render_doc(stage, renderer=pydoc.plaintext)


def test_importing_a_stage_needs_no_torch() -> None:
    code = (
        "import sys, saepipe; stages = saepipe.harvest, saepipe.train, saepipe.evaluate; print('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"

"""Tasks of the package's wheel, in a made-up copy of its folder; the real one is read in tests/interop."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from saepipe.data.errors import ConfigError
from saepipe.evaluate.metrics.sae_probes.package_tasks import package_tasks
from saepipe.evaluate.texts.labelled_rows import read_labelled_rows

MASTER = """Dataset name,Dataset save name,Data type
Births,cleaned_data/2_births.csv,Continuous Data
Genders,cleaned_data/5_is_male.csv,Binary Classification
Jokes,cleaned_data/9_is funny.csv,Binary Classification
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `sae_probes` that cannot be imported, with the data of two binary tasks."""
    folder = tmp_path / "sae_probes"
    (folder / "data" / "cleaned_data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for name, text in {
        "probing_datasets_MASTER": MASTER,
        "cleaned_data/5_is_male": 'prompt,prompt_len,target\nNA,2,True\n"Ann,\nAmy",4,False\n',
        "cleaned_data/9_is funny": "prompt,target\nHa,1\n",
    }.items():
        with pa.CompressedOutputStream(str(folder / "data" / f"{name}.csv.zst"), "zstd") as file:
            file.write(text.encode())
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("package")
def test_binary_tasks_are_found_without_an_import() -> None:
    tasks = package_tasks("sae-probes")
    assert [task.name for task in tasks] == ["sae-probes/5_is_male", "sae-probes/9_is funny"]
    (task,) = package_tasks("sae-probes/5_is_male")
    rows = [(row.text, row.label) for row in read_labelled_rows(task, None)]
    assert rows == [("NA", "True"), ("Ann,\nAmy", "False")]
    with pytest.raises(ConfigError, match="no binary task '5_ismale'\n  hint: did you mean '5_is_male'?"):
        package_tasks("sae-probes/5_ismale")


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saepipe.evaluate.metrics.sae_probes.package_tasks.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="in its wheel.*\n  hint: `pip install --no-deps sae-probes"):
        package_tasks("sae-probes")

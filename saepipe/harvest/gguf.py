"""Conversion of a GGUF file to an ordinary checkpoint, which loads in a second instead of a minute."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from saepipe.data.folders.atomic_folder import atomic_folder
from saepipe.harvest.model import load_model
from saepipe.harvest.model_config import ModelConfig


def convert(folder: Path, gguf_file: str, out: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """Writes the model of a GGUF file as a bfloat16 checkpoint folder `out`, unless that exists; returns `out`.

    Weights and tokenizer are those that `ModelConfig(model=folder, gguf_file=gguf_file)` loads.

    Raises:
        MachineError: if a package that reads GGUF files is missing.
        ConfigError: if the file cannot be read.
    """
    if not out.is_dir():
        say(f"converting {gguf_file} to {out}, once; this takes about a minute")
        config = ModelConfig(model=str(folder), gguf_file=gguf_file, dtype="bfloat16", device="cpu")
        with redirect_stderr(StringIO()):  # the reading library has a progress bar without a switch
            lm = load_model(config)
        with atomic_folder(out) as partial:
            lm.model.save_pretrained(partial)
            lm.tokenizer.save_pretrained(partial)
    return out

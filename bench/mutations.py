"""Prints the table of docs/health.md: the faults injected for each rule, and the messages about them.

python bench/mutations.py
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers.made_caches import structured_rows, write_cache
from helpers.mutations import MUTATIONS, World


def main() -> None:
    torch.set_num_threads(1)
    os.environ["SAEPIPE_COMMIT"] = "one"  # the table is the same at every commit
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = write_cache(folder / "cache", {"blocks.1.hook_resid_post": structured_rows(8200, 24)})
        print("| rule | fault | message |\n|---|---|---|")
        print(f"| - | none | {'; '.join(World(cache, folder / 'sound').train()) or '(nothing)'} |")
        for number, mutation in enumerate(MUTATIONS):
            messages = mutation.inject(World(cache, folder / str(number)))
            match = next((message for message in messages if mutation.words in message), "NOT FOUND")
            message = " ".join(match.replace(f"{folder / str(number)}/", "").replace("|", "\\|").split())
            print(f"| {mutation.rule} | {mutation.fault} | {message} |")


if __name__ == "__main__":
    main()

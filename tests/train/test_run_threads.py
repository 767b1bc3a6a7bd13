"""The bytes of a run do not depend on the number of threads, as long as torch's matrix products do not."""

from __future__ import annotations

from pathlib import Path

import torch

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.folders.artifact import COMMITTED
from saepipe.train.run import train


def test_a_fingerprint_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """A batch has more than 32,768 elements, from which on torch adds in several threads."""
    cache = write_cache(tmp_path / "cache", {"blocks.1.hook_resid_post": structured_rows(1100, 200)})
    settings = {"cache": str(cache), "sae": {"name": "relu", "d_sae": 64}, "steps": 3, "batch_size": 512}
    settings |= {"penalties": [{"name": "l1", "weight": 0.3}], "log_every": 1, "device": "cpu"}
    before, fingerprints = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            (run,) = train(settings, tmp_path / f"threads-{threads}")
            fingerprints.add((run / COMMITTED).read_text())
    finally:
        torch.set_num_threads(before)
    assert len(fingerprints) == 1

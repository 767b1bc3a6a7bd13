"""SAELens itself loads a pushed SAE with the code in the card."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from helpers.local_hub import Hub
from saepipe.evaluate.hub.push import push
from saepipe.train.rundir.load import load

# In a new process, since HF_ENDPOINT and HF_HOME are read once; one for both SAEs, since SAELens starts slowly.
START = """
import sys
from safetensors.torch import load_file, save_file
x = load_file(sys.argv[1])["x"]
"""
ENCODE = """
{load}
acts = sae.encode(x)
save_file({{"acts": acts.contiguous(), "x_hat": sae.decode(acts).contiguous()}}, sys.argv[{number}])
"""


@pytest.mark.interop
def test_saelens_loads_it_with_the_code_in_the_card(hub: Hub, api: HfApi, runs: list[Path], tmp_path: Path) -> None:
    """Loads it from `main` with from_pretrained; from a branch, which that does not support, with a snapshot."""
    pytest.importorskip("sae_lens", reason="SAELens is not installed: make interop")
    cards = [
        push(run, to, api=api)["card"] for run, to in zip(runs, ("hf://org/a", "hf://org/b@later/study"), strict=True)
    ]
    loads = [
        match[1] for card in cards if (match := re.search(r"In SAELens:\n\n```python\n(.*?)\n```", card, re.DOTALL))
    ]
    assert ["from_pretrained" in load for load in loads] == [True, False]
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    files = [str(tmp_path / f"{name}.safetensors") for name in ("x", "one", "two")]
    save_file({"x": x}, files[0])
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    code = START + "".join(ENCODE.format(load=load, number=number) for number, load in enumerate(loads, 2))
    done = subprocess.run([sys.executable, "-c", code, *files], env=clean | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for run, file in zip(runs, files[1:], strict=True):
        theirs, sae = load_file(file), load(run)
        acts = sae.encode(x)
        assert (acts > 0).any()
        torch.testing.assert_close(theirs["acts"], acts, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs["x_hat"], sae.decode(acts), rtol=1e-5, atol=1e-5)

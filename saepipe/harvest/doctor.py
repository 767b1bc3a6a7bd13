"""Examination of a machine: versions, devices, disk space, and whether the embedded model runs."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from saepipe.data.errors import MachineError
from saepipe.data.folders.artifact import provenance
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import load_model
from saepipe.harvest.model_config import ModelConfig


def examine() -> dict[str, Any]:
    """Runs the embedded model on a few tokens, and returns what a report about this machine should name.

    Raises:
        MachineError: if the model's activations are not finite.
    """
    lm = load_model(ModelConfig(device="cpu"))
    hook = HookPoint(lm.num_layers - 1, "hook_resid_post")
    ids = lm.tokenizer("a first look", add_special_tokens=False)["input_ids"]
    x = capture(lm.model, torch.tensor([[lm.bos_id, *ids]]), [hook])[str(hook)]
    if not torch.isfinite(x).all():
        raise MachineError("the embedded model gives NaN or Inf on this machine", hint="reinstall torch")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    machine = {"cpus": os.cpu_count(), "torch_threads": torch.get_num_threads(), "gpus": gpus or "none"}
    return {**provenance(), **machine, "free_disk": shutil.disk_usage(".").free, "toy_runs": "yes"}

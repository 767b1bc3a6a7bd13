"""Imports what ranks need, in the process from which tests fork them; the toy model is loaded for its imports.

torch must have no threads before the fork, or an operation of the child may wait for them without end.
"""

import torch

torch.set_num_threads(1)

from saepipe.harvest.model import load_model  # noqa: E402
from saepipe.harvest.model_config import ModelConfig  # noqa: E402

load_model(ModelConfig(device="cpu"))

"""An SAE as users load it: from a run, a folder or a hub, and attached to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.errors import ConfigError
from saepipe.evaluate.hub.fetch_sae import SCHEME, fetch_sae
from saepipe.evaluate.use.attached import Attached
from saepipe.evaluate.use.plain_model import plain_model
from saepipe.harvest.hook_point import HookPoint
from saepipe.train.rundir import load as rundir
from saepipe.train.rundir.finished_run import Run


class SAE(rundir.SAE):
    """A sparse autoencoder on raw activations, in float32; parameters as in `saepipe.train.rundir.load.SAE`.

    Example:
        >>> sae = sp.load("runs/baseline/seed-0", device="cuda")
        >>> acts = sae.encode(x)  # (..., d_in) -> (..., d_sae)
        >>> x_hat = sae.decode(acts)
    """

    def attach(self, model: Any, hook: str | None = None, *, skip_ids: list[int] | None = None) -> Attached:
        """Attaches the SAE to a model, to read and change its latents in forward passes.

        Args:
            model: a Hugging Face causal language model; or TransformerLens' TransformerBridge or nnsight's
                TransformersModel around one.
            hook: such as `blocks.19.hook_resid_post`; default: the hook that the SAE was trained at.
            skip_ids: ids of tokens that stay as they are; default: the model's BOS, EOS and padding, on which no SAE
                of saepipe is trained. A cache's attribute `special_ids` has those that `evaluate` leaves out.

        Returns:
            A context manager; the model is unchanged before and after it.

        Raises:
            ConfigError: if it is a crosscoder, if it does not say its hook, or if the model does not have that hook or
                another width.
            MachineError: if the model's decoder layers are not in a known place.

        Example:
            >>> with sae.attach(model) as latents:
            ...     latents.steer(123, 8.0)
            ...     model.generate(**inputs)
        """
        if len(hooks_of(str(self.hook))) > 1:
            hint = "a crosscoder reads several hooks at once; train a transcoder to change one of them"
            raise ConfigError(f"a crosscoder cannot be attached ({self.hook})", hint=hint)
        name = hook or self.hook
        if name is None:
            raise ConfigError(
                "the SAE's folder does not say its hook", hint="attach(model, 'blocks.19.hook_resid_post')"
            )
        return Attached(self, plain_model(model), HookPoint.parse(name), skip_ids)


def load(run: Run | Path | str, device: str | torch.device = "cpu") -> SAE:
    """Loads the SAE of a run, of a SAELens folder, or of either on a hub.

    Args:
        run: a run or its folder; a folder with `cfg.json` and `sae_weights.safetensors`; or
            `hf://org/name[@revision][/folder]`, which is downloaded into the hub's own cache.
        device: device of the parameters.

    Raises:
        CorruptDataError: if the run is unfinished or damaged.
        ConfigError: if the folder holds no SAE, or the address holds none or several.
        RemoteError: if the hub refuses or cannot be reached.

    Example:
        >>> sae = sp.load("runs/baseline/seed-0")
        >>> sae = sp.load("hf://org/name/baseline/seed-0", device="cuda")
    """
    if isinstance(run, str) and run.startswith(SCHEME):
        run = fetch_sae(run)
    return SAE.open(run, device)

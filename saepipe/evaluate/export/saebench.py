"""A run's SAE as a custom SAE for SAEBench 0.6.0, `selected_saes=[("name", custom_sae(run))]`; SAEBench is not needed.

It has the members that SAEBench's `custom_saes/base_sae.py` and its evaluations use: W_enc, W_dec, b_enc, b_dec,
device, dtype, cfg, encode, decode, forward, check_decoder_norms. Decoder rows have unit norm, as SAEBench requires;
activations are scaled accordingly, and x_hat is the run's own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saepipe.data.errors import ConfigError
from saepipe.harvest.hook_point import HookPoint
from saepipe.train.formats.rewrites import are_unit, decoder_norms, unit_rows
from saepipe.train.formats.saelens import NAMES
from saepipe.train.rundir.finished_run import Run, open_run
from saepipe.train.rundir.load import SAE, load
from saepipe.train.sae.base import Params


@dataclass
class CustomConfig:
    """SAEBench's CustomSAEConfig, with its field names. Not frozen, because SAEBench assigns to it."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    context_size: int | None = None
    hook_head_index: int | None = None
    architecture: str = ""
    apply_b_dec_to_input: bool = True
    finetuning_scaling_factor: bool = False
    activation_fn_str: str = "relu"
    activation_fn_kwargs: dict[str, Any] = field(default_factory=dict)
    prepend_bos: bool = True
    normalize_activations: str = "none"
    dtype: str = "float32"
    device: str = "cpu"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str = ""
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -1
    """-1: unknown, as in SAEBench's own"""
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data, for `sae_cfg_dict` of a result."""
        return asdict(self)


class CustomSAE(nn.Module):
    """An SAE on raw activations (..., d_in), computed in its own dtype; SAEBench moves it with `to`."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    norms: Tensor | None
    """(d_sae,) original norms of decoder rows, for a top-k alone: it selects by activations in their original scale"""

    def __init__(self, sae: SAE, cfg: CustomConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.settings = sae.settings
        params = {name: value.detach() for name, value in sae.named_parameters()}
        norms = decoder_norms(params)
        for name, value in unit_rows(params).items():
            self.register_parameter(name, nn.Parameter(value, requires_grad=False))
        unit = are_unit(norms) or sae.settings.elementwise
        self.register_buffer("norms", None if unit else norms.where(norms > 0, 1.0))

    @property
    def device(self) -> torch.device:
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        return self.W_enc.dtype

    def encode(self, x: Tensor) -> Tensor:
        """(..., d_in) -> acts (..., d_sae)."""
        params: Params = dict(self.named_parameters())
        pre_acts = self.settings.pre_acts(params, x, self.dtype)
        if self.norms is None:
            return self.settings.activate(params, pre_acts)
        return self.settings.activate(params, pre_acts / self.norms) * self.norms

    def decode(self, feature_acts: Tensor) -> Tensor:
        """acts (..., d_sae) -> x_hat (..., d_in)."""
        return self.settings.decode(dict(self.named_parameters()), feature_acts)

    def forward(self, x: Tensor) -> Tensor:
        """decode(encode(x))."""
        return self.decode(self.encode(x))

    def check_decoder_norms(self) -> bool:
        """Returns whether all decoder rows have unit norm, to the precision of their dtype; a zero row has not."""
        norms = decoder_norms(dict(self.named_parameters())).float()
        tolerance = 1e-5 if self.dtype == torch.float32 else 1e-2
        return torch.allclose(norms, torch.ones_like(norms), atol=tolerance)


def custom_sae(
    run: Run | Path | str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    model_name: str | None = None,
) -> CustomSAE:
    """Returns the SAE of a finished run, ready for SAEBench.

    Args:
        run: a run trained here or imported.
        device: initial device; SAEBench moves the SAE again.
        dtype: dtype of the parameters and of the products.
        model_name: TransformerLens' name of the model; default: its id in the cache.

    Raises:
        ConfigError: if the run's hook is not the residual stream between two layers.
        CorruptDataError: if the run is unfinished or damaged.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    hook = HookPoint.parse(opened.hook)
    opened.refuse_crosscoder("SAEBench")
    if opened.target:
        raise ConfigError(f"{opened.path} is a transcoder; SAEBench measures what reconstructs its own input")
    if not hook.is_between_layers:
        raise ConfigError(f"{opened.path} reads {hook}; SAEBench reads the residual stream between layers")
    sae = load(opened)
    trained = opened.trained.sae["name"] if opened.trained else sae.architecture
    num_active = sae.settings.num_active
    cfg = CustomConfig(
        model_name=model_name or sae.metadata["model_name"],
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        hook_layer=hook.layer,
        hook_name=opened.hook,
        context_size=sae.metadata.get("context_size"),
        architecture=NAMES.get(trained, trained),
        activation_fn_str="topk" if sae.architecture == "topk" else "relu",
        activation_fn_kwargs={} if num_active is None else {"k": num_active},
        dataset_path=sae.metadata.get("dataset_path") or "",
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
    )
    return CustomSAE(sae, cfg).to(device=device, dtype=dtype)

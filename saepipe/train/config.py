"""Settings of `saepipe train`, and the loss that a run minimises.

    loss = E_b reconstruction(x, x_hat) + sum over penalties of weight_now * penalty [+ kl_tail]

`reconstruction` is `squared` (the sum over d_in of (x - x_hat)^2) or `norm` (its square root). With `l1` the loss is
E_b |x - x_hat|^2 + weight * E_b sum_i acts_i |W_dec_i|, on activations scaled so that E_b |x|^2 = d_in.
Lengths of schedules are fractions of the run, so none can be longer than the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator

from saepipe.data.batches.memory import Resident, check_resident
from saepipe.data.cache.joint_hooks import joint_name
from saepipe.data.cache.paired_cache import OTHER
from saepipe.data.config.base import Count, fingerprint
from saepipe.data.config.bounds import Device, Seed
from saepipe.data.config.component import Component, ConfigWithPlugins, plugin_stems
from saepipe.data.config.place import Place
from saepipe.data.config.rate import Rate
from saepipe.data.errors import ConfigError
from saepipe.data.folders.health_rules import RULES
from saepipe.train.config_sections import (
    DeadConfig,
    InitConfig,
    KLTailConfig,
    OptimizerConfig,
    ParallelConfig,
    Positive,
    Skip,
    SkipConfig,
    StreamConfig,
    VariantsConfig,
)
from saepipe.train.freeze import MIN_COSINE, Freeze
from saepipe.train.health_config import HealthConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.screening import Screening
from saepipe.train.schedule import Schedule
from saepipe.train.stored_config import PRIMARY_METRICS, Effect, stored_identity
from saepipe.train.transforms.base import Transform

Compile = Literal["never", "cudagraphs", "inductor"]
Shuffle = Literal["cache", "pool"]

STREAM = Path("stream")
"""The `cache` of a config whose rows come from its section `stream`."""

RECONSTRUCTION, KL_TAIL = "reconstruction", "kl_tail"
"""Names of the terms of the loss that are not penalties."""

NEED_AN_ENCODER = ("relu", "gated")
"""Architectures that have neither a number of active latents nor thresholds that a penalty can move."""


class TrainConfig(ConfigWithPlugins):
    """One training run or, with `variants` and `seeds`, several that share a stream of batches."""

    cache: Place = Field(description="folder of the cache; `stream`, with the section `stream`: none, see there")
    stream: StreamConfig | None = Field(
        None, description="a harvest that feeds the training while it runs; with `cache: stream`"
    )
    hook: str | None = Field(None, description="`blocks.19.hook_resid_post`; null if the cache has only one")
    hooks: tuple[str, ...] = Field(
        (),
        description="the run is a crosscoder, which reads and reconstructs several hooks of the cache by one set of "
        "latents; they take the place of `hook`",
    )
    other_cache: Place | None = Field(
        None,
        description="cache of another model on the same tokens: a crosscoder reads `hooks` of both, and shows what the "
        "models share",
    )
    other_fingerprint: str | None = Field(None, description="fingerprint of that cache; written by saepipe")
    target: str | None = Field(
        None,
        description="`blocks.19.hook_mlp_out`: the run is a transcoder, which reads `hook` and reconstructs this hook "
        "of the same cache; null: an SAE, which reconstructs what it reads",
    )
    skip: Skip = Field(False, description="an affine map from a transcoder's input to its output beside the latents")
    sae: Architecture
    penalties: tuple[Penalty, ...] = ()
    transforms: tuple[Transform, ...] = Field((), description="transforms of the activations, in training only")
    reconstruction: Literal["squared", "norm"] = "squared"
    activation_scale: Literal["rms", "none"] = Field("rms", description="rms: train on s x, where E|s x|^2 = d_in")

    steps: Positive | None = None
    tokens: Positive | None = None
    epochs: float | None = Field(None, gt=0, le=1e6)
    batch_size: Annotated[Count, Field(ge=1, le=2**22)] = 2048
    optimizer: OptimizerConfig = OptimizerConfig()
    init: InitConfig = InitConfig()
    freeze: Freeze | None = Field(
        None,
        description="a part that stays at its start, as a control: decoder (W_dec), encoder (W_enc and b_enc), or "
        "soft_decoder, whose rows keep a cosine of at least `freeze_cosine` with their start",
    )
    freeze_cosine: float = Field(MIN_COSINE, ge=0, lt=1)
    dead: DeadConfig = DeadConfig()
    kl_tail: KLTailConfig = Field(
        KLTailConfig(), description="the last share of the steps runs the language model and adds its KL to the loss"
    )

    seed: Seed = Field(0, description="seed of initialisation and resampling")
    data_seed: Seed = Field(0, description="seed of the order of the data")
    shuffle: Shuffle = Field(
        "cache",
        description="rows are shuffled over the whole cache, or over each pool of the harvest in turn (pool), as "
        "they are in a stream",
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="dtype of matrix products; auto: bfloat16 on CUDA, else float32. All else is float32",
    )
    sparse_steps: Literal["auto", "always", "never"] = Field(
        "auto", description="compute only active entries; auto: if few enough are active, see train/step/density.py"
    )
    screen: Screening = Field(
        "auto",
        description="find the entries of a sparse step by a product in bfloat16 and bounds of its error, and compute "
        "those in float32; auto: on a CPU that multiplies bfloat16 fast; always: on every CPU, and on CUDA from "
        "capability 8.0",
    )
    exact: bool | None = Field(
        None,
        description="true: each run has the bits that it would have alone; false: small runs of the same structure are "
        "stacked, which is faster and differs by rounding; null: true on a CPU, false on CUDA",
    )
    compile: Compile = Field(
        "never",
        description="trace settled steps once and launch them as CUDA graphs (cudagraphs), or fused by torch.compile "
        "(inductor), so that the device does not wait for Python",
    )
    device: Device = "auto"
    resident: Resident = Field(
        "none",
        description="ram, gpu: decode the cache once into that memory; none: stream it. Batches are the same",
    )
    plugin_sources: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of each plugin that the run uses; written by saepipe"
    )

    log_every: Positive = 100
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        (), description="receive each line of metrics.jsonl after it is written; a tracker cannot stop a run"
    )
    checkpoint_every: Positive = 1000
    health: HealthConfig = HealthConfig()
    primary_metrics: dict[str, Effect] = Field(
        default_factory=PRIMARY_METRICS.copy,
        description="figures that the study is about, with the smallest effects of interest; others are exploratory",
    )
    parallel: ParallelConfig = Field(
        ParallelConfig(), description="split each run over ranks, by its latents and by the tokens of a batch"
    )
    cost: Rate | None = Field(
        None, exclude=True, description="price of a rank's time, for `--dry-run`; no run or cache stores it"
    )
    variants: VariantsConfig = VariantsConfig()
    seeds: Annotated[tuple[Seed, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of steps, tokens, epochs (found {', '.join(given) or 'none'})")
        if self.tokens is not None and self.tokens < self.batch_size:
            raise ValueError(
                f"{RULES['H6'].label}: {self.tokens} tokens are less than one batch of {self.batch_size}, "
                "so there would be zero steps"
            )
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        refusals = [f"{penalty.name}: {reason}" for penalty in self.penalties if (reason := penalty.refuses(self.sae))]
        if refusals:
            raise ValueError("; ".join(refusals))
        if self.hooks and (self.hook is not None or self.target is not None):
            raise ValueError("hooks, of a crosscoder, and hook or target exclude each other")
        if len({*self.hooks}) < len(self.hooks):
            raise ValueError("hooks, of a crosscoder, name one twice")
        if self.other_cache is not None and not self.hooks:
            raise ValueError("other_cache needs `hooks`, which a crosscoder reads from both caches")
        if self.hooks and self.sae.name == "gated":
            raise ValueError("a crosscoder cannot be gated")
        if self.sae.tied and (self.hooks or self.target is not None):
            raise ValueError(
                f"a {self.sae.name} reads by its decoder's rows, so it cannot be a transcoder, nor a crosscoder, whose "
                "hooks have scales of their own"
            )
        if self.skip and self.target is None:
            raise ValueError("skip needs a target: the skip of an SAE would be the identity, and its latents silent")
        if self.exact and self.compile == "inductor":
            raise ValueError("compile: inductor cannot be exact, since compiled steps round otherwise than plain ones")
        if self.kl_tail.share and self.hooks:
            raise ValueError("a crosscoder has no kl_tail: it reconstructs several hooks, of one model or of two")
        if self.kl_tail.share and self.compile != "never":
            raise ValueError("kl_tail needs compile: never, since steps that run the language model are not captured")
        if self.sparse_steps == "always" and self.why_dense:
            raise ValueError(f"sparse_steps: always is impossible, since {self.why_dense}; use auto or never")
        return self

    @model_validator(mode="after")
    def _can_be_streamed(self) -> Self:
        if self.stream is None:
            return self
        refusals = {
            f"resident: {self.resident} keeps a whole cache in memory": self.resident != "none",
            "other_cache would have to be a stream of the same tokens": self.other_cache is not None,
            "a kl_tail reads windows of the whole text": self.kl_tail.share,
            "more than one epoch would read rows that are gone": (self.epochs or 0) > 1,
        }
        if refused := [reason for reason, holds in refusals.items() if holds]:
            raise ValueError(f"stream: {'; '.join(refused)}: harvest a cache for that")
        return self

    @model_validator(mode="after")
    def _can_be_frozen(self) -> Self:
        if self.freeze_cosine != MIN_COSINE and self.freeze != "soft_decoder":
            raise ValueError("freeze_cosine has no effect without `freeze: soft_decoder`")
        if self.freeze == "encoder" and self.sae.tied:
            raise ValueError(f"freeze: encoder: a {self.sae.name} has no encoder of its own; use decoder")
        if self.freeze == "encoder" and self.init.source is None and self.sae.name in NEED_AN_ENCODER:
            raise ValueError(
                f"freeze: encoder would leave about half the latents of a {self.sae.name} active, since only a trained "
                "encoder makes it sparse; use topk, batch_topk or jumprelu, or start from a trained SAE by init.from"
            )
        return self

    @model_validator(mode="after")
    def _can_be_split(self) -> Self:
        parallel, sae = self.parallel, self.sae
        if parallel.num_ranks == 1:
            return self
        refusals = {
            f"{sae.name} cannot be split": not sae.can_be_split,
            f"latents {parallel.latents} are more than d_sae {sae.d_sae}": parallel.latents > sae.d_sae,
            f"data {parallel.data} is more than batch_size {self.batch_size}": parallel.data > self.batch_size,
            "a run with dead.resample_steps cannot be split; use the penalty auxk": self.dead.resample_steps,
            "a run with a kl_tail cannot be split": self.kl_tail.share,
            f"compile: {self.compile} is for runs of one process": self.compile != "never",
        }
        if refused := [reason for reason, holds in refusals.items() if holds]:
            raise ValueError(f"parallel: {'; '.join(refused)}")
        return self

    @property
    def why_dense(self) -> str | None:
        """Why no step of the run can be sparse; None if steps can be."""
        if self.parallel.num_ranks > 1:
            return "a run over ranks has no sparse steps"
        if not self.sae.sparse:
            return f"{self.sae.name} has no sparse steps"
        dense = [transform.name for transform in self.transforms if not transform.keeps_zeros]
        return f"{', '.join(dense)} may turn latents on" if dense else None

    @property
    def screening(self) -> Screening:
        """Rule by which sparse steps are screened. `auto` leaves those to be captured: a screen counts candidates."""
        return "never" if self.screen == "auto" and self.compile != "never" else self.screen

    @property
    def read_hooks(self) -> tuple[str, ...]:
        """Hooks whose activations are side by side in a row of a batch, once `hook` is set."""
        if self.hooks:
            return (*self.hooks, *(OTHER + hook for hook in self.hooks if self.other_cache is not None))
        assert self.hook is not None, "the config is not resolved"
        return (self.hook,) if self.target is None else (self.hook, self.target)

    @property
    def site(self) -> str:
        """Name of what the encoder reads, once `hook` is set: the hook, or the joint name of a crosscoder's."""
        return joint_name(self.read_hooks) if self.hooks else str(self.hook)

    @property
    def skip_settings(self) -> SkipConfig | None:
        """Settings by which the skip learns; None if there is none."""
        if isinstance(self.skip, SkipConfig):
            return self.skip
        return SkipConfig() if self.skip else None

    @property
    def term_names(self) -> list[str]:
        """Names of the terms of the loss, in their order."""
        return [RECONSTRUCTION, *labels(self.penalties), *([KL_TAIL] if self.kl_tail.share else [])]

    def components(self) -> list[tuple[str, Penalty | Transform]]:
        """Returns penalties and transforms with their labels."""
        return [
            *zip(labels(self.penalties), self.penalties, strict=True),
            *zip(labels(self.transforms), self.transforms, strict=True),
        ]

    def num_steps(self, num_rows: int) -> int:
        """Returns the number of optimisation steps over a cache of `num_rows` training rows.

        Raises:
            ConfigError: if there would be none.
        """
        if self.steps is not None:
            return self.steps
        tokens = self.tokens if self.tokens is not None else int((self.epochs or 0) * num_rows)
        if tokens < self.batch_size:
            raise ConfigError(
                f"{RULES['H6'].label}: {self.epochs} epochs of {num_rows:,} rows are less than one batch of "
                f"{self.batch_size}, so there would be zero steps",
                hint="raise epochs, or lower batch_size",
            )
        return tokens // self.batch_size

    def resolved(self, *, hook: str | None, num_rows: int, device: torch.device) -> Self:
        """Returns the config of a single run with every value set: steps, hook, dead threshold, dtype, plugins.

        Raises:
            ConfigError: if there would be no step, a schedule is longer than the run, or `device` cannot be `resident`.
        """
        check_resident(self.resident, device)
        self._check_compile(device)
        steps = self.num_steps(num_rows)
        for label, component in (("sae", self.sae), *self.components()):
            for name, setting in component.settings().items():
                if isinstance(setting, Schedule):
                    setting.check_fits(f"{label}.{name}", steps)
        dead_after = self.dead.after_tokens or min(10_000_000, max(1, steps * self.batch_size // 20))
        auto_dtype = "bfloat16" if device.type == "cuda" else "float32"
        plugins = [path for path in self.plugins if path.stem in self._used_plugins()]
        return self.model_copy(
            update={
                "hook": hook,
                "skip": self.skip_settings or False,
                "steps": steps,
                "tokens": None,
                "epochs": None,
                "dead": self.dead.model_copy(update={"after_tokens": dead_after}),
                "exact": self._exact_by_default(device) if self.exact is None else self.exact,
                "compute_dtype": auto_dtype if self.compute_dtype == "auto" else self.compute_dtype,
                "plugins": tuple(path.resolve() for path in plugins),
                "plugin_sources": {path.stem: source_digest(path) for path in plugins},
                "variants": VariantsConfig(),
                "seeds": (),
            }
        )

    def _exact_by_default(self, device: torch.device) -> bool:
        return device.type == "cpu" and self.compile != "inductor"

    def _check_compile(self, device: torch.device) -> None:
        if self.compile == "cudagraphs" and device.type != "cuda":
            raise ConfigError(
                f"compile: cudagraphs needs a CUDA device, and this run's is {device.type}",
                hint="use `compile: never`, or `inductor`, which compiles for a CPU too",
            )

    def identity(self) -> dict[str, Any]:
        """Returns what makes the run what it is: the config without paths, logging, machine and unused plugins."""
        used = self._used_plugins()
        sources = {stem: digest for stem, digest in self.plugin_sources.items() if stem in used}
        return stored_identity(self.to_dict()) | {"plugin_sources": sources}

    def _used_plugins(self) -> set[str]:
        """Returns the stems of the plugins that the run's components, or their base classes, come from."""
        components = (self.sae, *self.penalties, *self.transforms)
        return {stem for component in components for stem in plugin_stems(type(component))}

    def run_id(self, cache_fingerprint: str) -> str:
        """Returns sixteen hex digits, equal for runs that agree up to rounding (bit for bit on the same machine)."""
        return fingerprint({"cache": cache_fingerprint, "config": self.identity()})


def source_digest(path: Path) -> str:
    """Returns sixteen hex digits of a plugin's text: other code makes another run."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def labels(components: Sequence[Component]) -> list[str]:
    """Returns the components' names in the loss and its logs; a repeated name is numbered: l1, l1.2."""
    names = [component.name for component in components]
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}.{count}" for name, count in zip(names, counts, strict=True)]

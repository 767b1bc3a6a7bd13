"""Schemas of result files: SAEBench 0.6.0's envelope and keys, restated, and the additions of saepipe.

`check(result)` is for the tests of every metric. A number may be null only if `saepipe.undefined` gives the reason.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

Number = float | None
"""Null if undefined; never NaN."""
KS = (1, 2, 5, 10, 20, 50, 100)
NUM_ABLATED = (2, 5, 10, 20, 50, 100, 500)


class Exact(BaseModel):
    """A model with exactly these keys and types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AtLeast(BaseModel):
    """A model with at least these keys."""

    model_config = ConfigDict(extra="allow", strict=True)


def numbers(name: str, *keys: str) -> type[Exact]:
    fields: dict[str, Any] = dict.fromkeys(keys, (Number, ...))
    return create_model(name, __base__=Exact, **fields)


def ending_in(suffix: str) -> Any:
    return Annotated[str, StringConstraints(pattern=f"^.+{suffix}$")]


def detailed(name: str, base: type[Exact], suffix: str) -> type[Exact]:
    """Returns the schema of a dataset's entry: its name, then the keys of `base`."""
    return create_model(name, __base__=base, dataset_name=(ending_in(suffix), ...))


# core


class TokenStats(Exact):
    total_tokens_eval_reconstruction: int
    total_tokens_eval_sparsity_variance: int


class CoreMetrics(Exact):
    model_behavior_preservation: numbers("Behavior", "kl_div_score", "kl_div_with_ablation", "kl_div_with_sae")
    model_performance_preservation: numbers(
        "Performance", "ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"
    )
    reconstruction_quality: numbers(
        "Reconstruction", "explained_variance", "explained_variance_legacy", "mse", "cossim"
    )
    shrinkage: numbers("Shrinkage", "l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias")
    sparsity: numbers("Sparsity", "l0", "l1")
    token_stats: TokenStats
    misc_metrics: numbers(
        "Misc",
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    )


class Latent(Exact):
    index: int
    feature_density: Number
    consistent_activation_heuristic: Number
    encoder_bias: Number
    encoder_norm: Number
    encoder_decoder_cosine_sim: Number
    max_decoder_cosine_sim: Number
    max_encoder_cosine_sim: Number


class CoreConfig(AtLeast):
    model_name: str
    batch_size_prompts: int
    n_eval_reconstruction_batches: int
    n_eval_sparsity_variance_batches: int
    dataset: str
    context_size: int
    exclude_special_tokens_from_reconstruction: bool
    compute_featurewise_density_statistics: Literal[True]
    compute_featurewise_weight_based_metrics: Literal[True]
    llm_dtype: str


# sparse_probing

LLM = ["llm_test_accuracy", *(f"llm_top_{k}_test_accuracy" for k in KS)]
SAE = ["sae_test_accuracy", *(f"sae_top_{k}_test_accuracy" for k in KS)]


class ProbingMetrics(Exact):
    llm: numbers("LLMAccuracies", *LLM)
    sae: numbers("SAEAccuracies", *SAE)


# absorption_first_letter


class AbsorptionMetrics(Exact):
    mean: numbers(
        "AbsorptionMean",
        "mean_absorption_fraction_score",
        "mean_full_absorption_score",
        "mean_num_split_features",
        "std_dev_absorption_fraction_score",
        "std_dev_full_absorption_score",
        "std_dev_num_split_features",
    )


class Letter(Exact):
    first_letter: Annotated[str, StringConstraints(pattern="^[a-z]$")]
    mean_absorption_fraction: Number
    full_absorption_rate: Number
    num_full_absorption: int | None
    num_probe_true_positives: int
    num_split_features: int | None


# scr, tpp, ravel, unlearning

SCR = numbers("SCR", *(f"scr_{kind}_threshold_{n}" for kind in ("dir1", "metric", "dir2") for n in NUM_ABLATED))
TPP = numbers(
    "TPP",
    *(
        f"tpp_threshold_{n}_{kind}"
        for n in NUM_ABLATED
        for kind in ("total_metric", "intended_diff_only", "unintended_diff_only")
    ),
)


class ScrMetrics(Exact):
    scr_metrics: SCR


class TppMetrics(Exact):
    tpp_metrics: TPP


class RavelMetrics(Exact):
    ravel: numbers("Ravel", "disentanglement_score", "cause_score", "isolation_score")


class UnlearningMetrics(Exact):
    unlearning: numbers("Unlearning", "unlearning_score")


# the envelope

ByClass = dict[str, dict[str, dict[str, Number]]]
"""dataset -> metric -> class -> number"""


class Fingerprints(AtLeast):
    run: str
    cache: str
    model: dict[str, Any]


class Ours(AtLeast):
    """The `saepipe` block."""

    metric_version: int = Field(ge=1)
    mode: Literal["fixed", "reference"]
    request: str
    config: dict[str, Any]
    fingerprints: Fingerprints
    hook: str
    variant: str
    seeds: dict[str, int | None]
    metrics: dict[str, int | Number]
    intervals: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]
    undefined: dict[str, str]
    warnings: list[str]
    counts: dict[str, int]
    provenance: dict[str, Any]


class Envelope(Exact):
    """The envelope in SAEBench's order, `saepipe` last."""

    eval_type_id: str
    eval_config: dict[str, Any]
    eval_id: Annotated[str, StringConstraints(min_length=1)]
    datetime_epoch_millis: int = Field(ge=0, le=9999999999999)
    eval_result_metrics: dict[str, dict[str, int | Number]]
    eval_result_details: list[dict[str, int | float | str | None]]
    sae_bench_commit_hash: str
    sae_lens_id: str | None
    sae_lens_release_id: str | None
    sae_lens_version: str | None
    sae_cfg_dict: dict[str, Any] | None
    eval_result_unstructured: dict[str, Any] | None
    saepipe: Ours


class CoreResult(Envelope):
    eval_type_id: Literal["core"]
    eval_config: CoreConfig
    eval_result_metrics: CoreMetrics
    eval_result_details: list[Latent]
    eval_result_unstructured: Annotated[dict[str, Any], Field(max_length=0)]


class ProbingResult(Envelope):
    eval_type_id: Literal["sparse_probing"]
    eval_result_metrics: ProbingMetrics
    eval_result_details: list[detailed("Probed", numbers("Accuracies", *LLM, *SAE), "_results")]
    eval_result_unstructured: ByClass


class AbsorptionResult(Envelope):
    eval_type_id: Literal["absorption_first_letter"]
    eval_result_metrics: AbsorptionMetrics
    eval_result_details: list[Letter]


class ScrResult(Envelope):
    eval_type_id: Literal["scr"]
    eval_result_metrics: ScrMetrics
    eval_result_details: list[detailed("ScrOf", SCR, "_scr_.+_results")]


class TppResult(Envelope):
    eval_type_id: Literal["tpp"]
    eval_result_metrics: TppMetrics
    eval_result_details: list[detailed("TppOf", TPP, "_tpp_results")]
    eval_result_unstructured: ByClass


class RavelResult(Envelope):
    eval_type_id: Literal["ravel"]
    eval_result_metrics: RavelMetrics
    eval_result_details: Annotated[list[Any], Field(max_length=0)]
    eval_result_unstructured: dict[str, dict[str, numbers("Of", "cause_score", "isolation_score", "disentangle_score")]]


class UnlearningResult(Envelope):
    eval_type_id: Literal["unlearning"]
    eval_result_metrics: UnlearningMetrics
    eval_result_details: Annotated[list[Any], Field(max_length=0)]


RESULTS: dict[str, type[Envelope]] = {
    "core": CoreResult,
    "sparse_probing": ProbingResult,
    "absorption_first_letter": AbsorptionResult,
    "scr": ScrResult,
    "tpp": TppResult,
    "ravel": RavelResult,
    "unlearning": UnlearningResult,
}


def check(result: dict[str, Any]) -> None:
    """Raises ValidationError or AssertionError if a result is wrong; our own metrics are checked by the envelope alone.

    Args:
        result: an envelope, in memory or read from its file.
    """
    result = json.loads(json.dumps(result, allow_nan=False))
    RESULTS.get(result["eval_type_id"], Envelope).model_validate(result)
    assert list(result) == list(Envelope.model_fields), "the envelope's order"
    ours = result["saepipe"]
    figures = {key: value for group in result["eval_result_metrics"].values() for key, value in group.items()}
    figures |= ours["metrics"]
    unexplained = {key for key, value in figures.items() if value is None} - ours["undefined"].keys()
    assert not unexplained, f"null without a reason: {sorted(unexplained)}"
    for key, (low, high) in ours["intervals"].items():
        assert low <= high, f"the interval of {key} is upside down"

"""What tables, verdicts and reports know of the figures of each metric in the package, by SAEBench's keys.

They stand here, apart from what computes them, so that results are read without a model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class FigureSpec:
    """Label of a figure in tables, and the meaning of a change in it."""

    label: str
    better: Literal["higher", "lower"] | None = None
    of_model: bool = False
    """True if the figure depends on the model alone, so that it must be the same for all runs."""
    of_pairs: bool = False
    """True if a run's value is a mean over its pairs with the other seeds of its variant."""
    untestable: str | None = None
    """Why seeds allow no test of it, so that it gets neither an interval over seeds nor a verdict."""
    noisy: str | None = None
    """Why the figure separates variants poorly, with a source."""


NOISY = "it is noisy for comparing variants (arXiv 2605.18229)"

Specs = Mapping[str, FigureSpec]

ABSORPTION_FIGURES: Specs = {
    "mean_full_absorption_score": FigureSpec("full absorption", "lower"),
    "mean_absorption_fraction_score": FigureSpec("absorption fraction", "lower"),
    "mean_num_split_features": FigureSpec("latents per letter"),
    "first_letter_split_f1": FigureSpec("F1 of letters' latents", "higher"),
    "first_letter_num_letters": FigureSpec("letters measured"),
    "first_letter_probe_f1": FigureSpec("F1 of letters' probes", of_model=True),
}

SCR_FIGURES: Specs = {
    "scr_metric_threshold_10": FigureSpec("SCR, 10 latents", "higher", noisy=NOISY),
    "scr_metric_threshold_50": FigureSpec("SCR, 50 latents", "higher", noisy=NOISY),
    "scr_llm_test_accuracy": FigureSpec("SCR, clean probes", of_model=True),
    "scr_llm_misled_accuracy": FigureSpec("SCR, misled probes", of_model=True),
}

TPP_FIGURES: Specs = {
    "tpp_threshold_10_total_metric": FigureSpec("TPP, 10 latents", "higher", noisy=NOISY),
    "tpp_threshold_50_total_metric": FigureSpec("TPP, 50 latents", "higher", noisy=NOISY),
    "tpp_llm_test_accuracy": FigureSpec("TPP, clean probes", of_model=True),
}

CORE_FIGURES: Specs = {
    "l0": FigureSpec("L0"),
    "explained_variance": FigureSpec("explained variance", "higher"),
    "delta_ce": FigureSpec("delta CE (nats)", "lower"),
    "ce_loss_score": FigureSpec("CE score", "higher"),
    "kl_div_score": FigureSpec("KL score", "higher"),
    "mse": FigureSpec("MSE", "lower"),
    "cossim": FigureSpec("cosine", "higher"),
    "l2_ratio": FigureSpec("l2 ratio"),
    "frac_alive": FigureSpec("alive", "higher"),
    "ce_loss_without_sae": FigureSpec("clean CE (nats)", of_model=True),
    "ce_loss_with_ablation": FigureSpec("ablated CE (nats)", of_model=True),
}

GEOMETRY_FIGURES: Specs = {
    "mean_max_decoder_cosine": FigureSpec("max cosine", "lower"),
    "frac_max_decoder_cosine_over_70": FigureSpec("max cosine > 0.7", "lower"),
    "mean_abs_decoder_cosine": FigureSpec("mean |cosine|"),
    "nth_decoder_projection": FigureSpec("decoder projection"),
    "mean_encoder_decoder_cosine": FigureSpec("enc-dec cosine"),
    "mean_decoder_norm": FigureSpec("decoder norm"),
    "frac_dead": FigureSpec("dead", "lower"),
    "frac_dense": FigureSpec("dense", "lower"),
    "mean_log10_density": FigureSpec("log10 density"),
    "mean_pair_conditional": FigureSpec("P(parent | child) of similar pairs"),
    "mean_pair_lift": FigureSpec("lift of similar pairs"),
    "hedging_degree": FigureSpec("hedging before widening", "lower"),
}

SPARSE_PROBING_FIGURES: Specs = {
    "sae_top_1_test_accuracy": FigureSpec("probe of 1 latent", "higher"),
    "sae_top_5_test_accuracy": FigureSpec("probe of 5 latents", "higher"),
    "sae_test_accuracy": FigureSpec("probe of all latents", "higher"),
    "llm_top_1_test_accuracy": FigureSpec("probe of 1 channel", of_model=True),
    "llm_test_accuracy": FigureSpec("probe of the model", of_model=True),
}

OF_ALL_SEEDS = "it is one number of all seeds of a variant, and not a mean over them"

STABILITY_FIGURES: Specs = {
    "pw_mcc": FigureSpec("PW-MCC", "higher", of_pairs=True),
    "pw_mcc_above_random": FigureSpec("PW-MCC above random", "higher", of_pairs=True),
    "pw_mcc_above_flipped": FigureSpec("PW-MCC above flipped", "higher", of_pairs=True),
    "pw_mcc_activation_above_flipped": FigureSpec("activation MCC above flipped", "higher", of_pairs=True),
    "frac_in_all_seeds_over_70": FigureSpec("in all seeds > 0.7", "higher", untestable=OF_ALL_SEEDS),
    "frac_in_all_seeds_over_90": FigureSpec("in all seeds > 0.9", "higher", untestable=OF_ALL_SEEDS),
}

RAVEL_FIGURES: Specs = {
    "disentanglement_score": FigureSpec("RAVEL disentanglement", "higher"),
    "cause_score": FigureSpec("RAVEL cause", "higher"),
    "isolation_score": FigureSpec("RAVEL isolation", "higher"),
    "ravel_num_latents": FigureSpec("latents per attribute"),
    "ravel_llm_accuracy": FigureSpec("LLM, RAVEL prompts", of_model=True),
    "ravel_llm_swap_cause": FigureSpec("RAVEL cause, whole swap", of_model=True),
    "ravel_llm_swap_isolation": FigureSpec("RAVEL isolation, whole swap", of_model=True),
}

SAE_PROBES_FIGURES: Specs = {
    "sae_probes_top_1_test_auc": FigureSpec("AUC of 1 latent", "higher"),
    "sae_probes_top_16_test_auc": FigureSpec("AUC of 16 latents", "higher"),
    "sae_probes_llm_test_auc": FigureSpec("AUC of the model", of_model=True),
}

UNLEARNING_FIGURES: Specs = {
    "unlearning_score": FigureSpec("unlearning", "higher"),
    "unlearning_llm_forget_accuracy": FigureSpec("LLM, forget questions", of_model=True),
    "unlearning_llm_retain_accuracy": FigureSpec("LLM, retain questions", of_model=True),
}

AUTOINTERP_FIGURES: Specs = {
    "autointerp_score": FigureSpec("detection by explanations", "higher"),
    "fuzzing_score": FigureSpec("fuzzing by explanations", "higher"),
}

DELPHI_FIGURES: Specs = {
    "delphi_detection_score": FigureSpec("delphi's detection", "higher"),
    "delphi_fuzzing_score": FigureSpec("delphi's fuzzing", "higher"),
}

BUILT_IN: Specs = {
    **ABSORPTION_FIGURES,
    **SCR_FIGURES,
    **TPP_FIGURES,
    **CORE_FIGURES,
    **GEOMETRY_FIGURES,
    **SAE_PROBES_FIGURES,
    **SPARSE_PROBING_FIGURES,
    **STABILITY_FIGURES,
    **RAVEL_FIGURES,
    **UNLEARNING_FIGURES,
    **AUTOINTERP_FIGURES,
    **DELPHI_FIGURES,
}

"""SAELens' own trainer on the `cpu` world of bench/synthbench.py, for rows that both can train.

    PYTHON bench/synthbench_saelens.py [--seeds 1]

PYTHON has sae-lens 6.54 and saepipe. World, width, samples, batch size, learning rate and evaluation are those of
synthbench.py; what differs is the trainer: initialisation, scale of the activations, norms of decoder rows, and the
loss by which dead latents learn. Writes results/synthbench_saelens.json; `synthbench.py --table` prints our rows.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from record import write_result
from sae_lens import (
    BatchTopKTrainingSAEConfig,
    LoggingConfig,
    MatchingPursuitTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAEConfig,
)
from sae_lens.synthetic import (
    FoldedNormalMagnitudeConfig,
    HierarchyConfig,
    LinearMagnitudeConfig,
    LowRankCorrelationConfig,
    OrthogonalizationConfig,
    SyntheticModelConfig,
    SyntheticSAERunner,
    SyntheticSAERunnerConfig,
    ZipfianFiringProbabilityConfig,
    eval_sae_on_synthetic_data,
)

from saepipe.data.synthetic import SynthBench
from saepipe.evaluate.validate.synthbench_rows import SIZES, training
from saepipe.evaluate.validate.synthbench_training import MEASURED_AT_ONCE

CLAIM = "SAELens' trainer on the world of results/synthbench_cpu.json"
SIZE = SIZES["cpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    rows = []
    width = {"d_in": SIZE.bench.d_in, "d_sae": SIZE.d_sae}
    shape = {**width, "k": SIZE.l0}
    for seed in range(args.seeds):
        saes = {
            "batch_topk": BatchTopKTrainingSAEConfig(**shape),
            "matryoshka": MatryoshkaBatchTopKTrainingSAEConfig(
                **shape, matryoshka_widths=[*SIZE.groups, SIZE.d_sae], use_matryoshka_aux_loss=True
            ),
            "matching_pursuit": MatchingPursuitTrainingSAEConfig(
                **width, max_iterations=round(SIZE.l0), residual_threshold=0, stop_on_duplicate_support=False
            ),
        }
        for arm, sae in saes.items():
            rows.append({"arm": arm, "seed": seed, **row(sae, seed)})
            print(rows[-1], flush=True)
            write_result("synthbench_saelens", CLAIM, {"size": repr(SIZE), "rows": rows})


def row(sae: Any, seed: int) -> dict[str, float]:
    """Trains one SAE, and returns its metrics by their names here."""
    torch.manual_seed(seed)
    dead_window = training(SIZE, {}, 0)["dead"]["after_tokens"] // SIZE.batch_size
    config = SyntheticSAERunnerConfig(
        synthetic_model=model_config(SIZE.bench),
        sae=sae,
        training_samples=SIZE.num_samples,
        batch_size=SIZE.batch_size,
        lr=SIZE.lr,
        dead_feature_window=dead_window,
        checkpoint_path=None,
        output_path=None,
        eval_samples=0,
        logger=LoggingConfig(log_to_wandb=False),
    )
    result = SyntheticSAERunner(config).run()
    model = result.synthetic_model
    held_out = SIZE.num_held_out // MEASURED_AT_ONCE * MEASURED_AT_ONCE
    metrics = eval_sae_on_synthetic_data(
        result.sae, model.feature_dict, model.activation_generator, held_out, MEASURED_AT_ONCE
    )
    names = {"f1": metrics.classification.f1_score, "l0": metrics.sae_l0, "dead": metrics.dead_latents}
    return names | {name: getattr(metrics, name) for name in ("mcc", "uniqueness", "explained_variance")}


def model_config(bench: SynthBench) -> SyntheticModelConfig:
    """Returns SAELens' config of the same world."""
    high, low = bench.rates
    mean, std = bench.std_magnitudes
    return SyntheticModelConfig(
        num_features=bench.num_features,
        hidden_dim=bench.d_in,
        firing_probability=ZipfianFiringProbabilityConfig(exponent=bench.zipf, max_prob=high, min_prob=low),
        hierarchy=HierarchyConfig(
            total_root_nodes=bench.num_roots,
            branching_factor=bench.branching,
            max_depth=bench.depth,
            mutually_exclusive_portion=1.0,
            compensate_probabilities=True,
            scale_children_by_parent=True,
        ),
        orthogonalization=OrthogonalizationConfig(num_steps=bench.orthogonal_steps, lr=bench.orthogonal_lr),
        correlation=LowRankCorrelationConfig(rank=bench.rank, correlation_scale=bench.correlation_scale),
        mean_firing_magnitudes=LinearMagnitudeConfig(*bench.mean_magnitudes),
        std_firing_magnitudes=FoldedNormalMagnitudeConfig(mean=mean, std=std),
        bias=bench.bias_norm,
        seed=42,
    )


if __name__ == "__main__":
    main()

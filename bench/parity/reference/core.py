"""SAEBench's core on every SAE of the folder; writes its results and the sampled windows into core/."""

from __future__ import annotations

import torch
from sae_bench.evals.core import main
from safetensors.torch import save_file
from setting import Setting


def run(setting: Setting) -> None:
    windows: list[torch.Tensor] = []
    get_batch_tokens = main.ActivationsStore.get_batch_tokens

    def recorded_batch_tokens(store: main.ActivationsStore, *args: object, **kwargs: object) -> torch.Tensor:
        windows.append(get_batch_tokens(store, *args, **kwargs))
        return windows[-1]

    main.ActivationsStore.get_batch_tokens = recorded_batch_tokens
    main.HookedTransformer.from_pretrained_no_processing = lambda *_, **__: setting.model
    for exclude in (True, False):
        for name, sae in setting.saes.items():
            windows.clear()
            main.multiple_evals(
                selected_saes=[(name, sae)],
                n_eval_reconstruction_batches=setting.plain["reconstruction_batches"],
                n_eval_sparsity_variance_batches=setting.plain["sparsity_batches"],
                eval_batch_size_prompts=setting.plain["batch_size"],
                compute_featurewise_density_statistics=True,
                compute_featurewise_weight_based_metrics=True,
                exclude_special_tokens_from_reconstruction=exclude,
                dataset=str(setting.folder / "text"),
                context_size=setting.plain["context_size"],
                output_folder=str(setting.folder / "core" / ("exclude" if exclude else "everywhere")),
                dtype="float32",
                device="cpu",
            )
    save_file({"windows": torch.cat(windows)}, setting.folder / "core" / "windows.safetensors")


if __name__ == "__main__":
    run(Setting.from_command_line())

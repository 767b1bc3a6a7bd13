"""SAEBench's TPP and SCR on the activations, probes and examples of each task; writes ablation/<task>_<sae>.*"""

from __future__ import annotations

import json
from typing import Any

import torch
from sae_bench.evals.scr_and_tpp import main
from sae_bench.evals.sparse_probing import probe_training
from sae_bench.sae_bench_utils.activation_collection import create_meaned_model_activations
from sae_bench.sae_bench_utils.dataset_info import PAIRED_CLASS_KEYS
from safetensors.torch import load_file, save_file
from setting import Setting

PROBE_BATCH, SAE_BATCH = 500, 16
SCR_CLASSES = ("professor / nurse", "male / female", "male_professor / female_nurse")
"""The reference's fixed names of the concept, the attribute and the spurious question."""


def run(setting: Setting) -> None:
    plain = json.loads((setting.folder / "ablation.json").read_text())
    (setting.folder / "ablation").mkdir(exist_ok=True)
    original = probe_training.prepare_probe_data
    for task in ("tpp", "scr"):
        given = load_file(setting.folder / f"{task}.safetensors")
        is_scr = task == "scr"
        classes = SCR_CLASSES if is_scr else plain["classes"]
        # SCR samples nothing, as both sides of a pair have the same number of texts. TPP gets its negatives from us.
        probe_training.prepare_probe_data = original if is_scr else examples_of(given, classes)
        split = by_pair if is_scr else by_class
        train, test = (split(given, part, classes) for part in ("train", "test"))
        probes = probes_of(given, classes)
        for name, sae in setting.saes.items():
            tensors, scores = ablate(sae, probes, train, test, plain["sizes"], is_scr, given["test_x"])
            save_file(tensors, setting.folder / "ablation" / f"{task}_{name}.safetensors")
            (setting.folder / "ablation" / f"{task}_{name}.json").write_text(json.dumps(scores))


def ablate(
    sae: Any,
    probes: dict[str, probe_training.Probe],
    train: dict[str, torch.Tensor],
    test: dict[str, torch.Tensor],
    sizes: list[int],
    is_scr: bool,
    test_x: torch.Tensor,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    classes = list(probes)
    effects = main.get_all_node_effects_for_one_sae(sae, probes, classes, is_scr, train, SAE_BATCH)
    chosen = torch.stack([torch.stack([main.select_top_n_features(effects[c], n, c) for n in sizes]) for c in classes])
    ablated = main.ablated_precomputed_activations
    pooled = torch.stack([torch.stack([ablated(test_x, sae, mask, SAE_BATCH) for mask in row]) for row in chosen])
    meaned = create_meaned_model_activations(test)
    clean = main.get_probe_test_accuracy(probes, classes, meaned, PROBE_BATCH, is_scr)
    without = main.perform_feature_ablations(probes, sae, SAE_BATCH, test, effects, sizes, classes, PROBE_BATCH, is_scr)
    scores = main.get_scr_plotting_dict(without, clean) if is_scr else main.create_tpp_plotting_dict(without, clean)[0]
    tensors = {"effects": torch.stack(list(effects.values())), "chosen": chosen, "pooled": pooled}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, scores


def probes_of(given: dict[str, torch.Tensor], classes: list[str]) -> dict[str, probe_training.Probe]:
    probes = {}
    for number, name in enumerate(classes):
        probe = probes[name] = probe_training.Probe(given["directions"].shape[1], torch.float32)
        probe.net.weight.copy_(given["directions"][number : number + 1])
        probe.net.bias.copy_(given["intercepts"][number])
    return probes


def by_class(given: dict[str, torch.Tensor], part: str, classes: list[str]) -> dict[str, torch.Tensor]:
    """Splits the texts by class; they are sorted by class, with the same number of each."""
    return dict(zip(classes, given[f"{part}_x"].chunk(len(classes)), strict=True))


def by_pair(given: dict[str, torch.Tensor], part: str, classes: list[str]) -> dict[str, torch.Tensor]:
    """Returns a question's positive texts under its name, and the negative ones under the name of its partner."""
    x, signs = given[f"{part}_x"], given[f"{part}_signs"]
    by_class = {}
    for number, name in enumerate(classes):
        by_class[name], by_class[PAIRED_CLASS_KEYS[name]] = x[signs[number] > 0], x[signs[number] < 0]
    return by_class


def examples_of(given: dict[str, torch.Tensor], classes: list[str]) -> Any:
    """Returns a replacement of `prepare_probe_data`, which samples the negatives again at each call."""

    def prepare(
        acts: dict[str, torch.Tensor], name: str, perform_scr: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.cat([acts[label] for label in classes])
        [signs] = [given[key] for key in ("train_signs", "test_signs") if given[key].shape[1] == len(x)]
        sign = signs[list(classes).index(name)]
        return x[sign != 0], (sign[sign != 0] > 0).int()

    return prepare


if __name__ == "__main__":
    run(Setting.from_command_line())

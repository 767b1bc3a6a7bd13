"""SAEBench's absorption of the words, directions and latents in absorption.json; writes absorption_found.json."""

from __future__ import annotations

import json
import random

from sae_bench.evals.absorption.feature_absorption_calculator import FeatureAbsorptionCalculator
from sae_bench.evals.absorption.prompting import VERBOSE_FIRST_LETTER_TEMPLATE, first_letter_formatter
from safetensors.torch import load_file
from setting import Setting


def run(setting: Setting) -> None:
    inputs = json.loads((setting.folder / "absorption.json").read_text())
    directions = load_file(setting.folder / "directions.safetensors")
    calculator = FeatureAbsorptionCalculator(
        model=setting.model,
        icl_word_list=inputs["icl"],
        max_icl_examples=10,
        base_template=VERBOSE_FIRST_LETTER_TEMPLATE,
        answer_formatter=first_letter_formatter(),
        word_token_pos=inputs["token"],
    )
    scores = []
    for case in inputs["cases"]:
        random.seed(0)
        words, direction = inputs["words"][case["letter"]], directions[case["letter"]]
        sae = setting.saes[case["sae"]]
        results = calculator.calculate_absorption(sae, words, direction, case["split"], setting.layer, False)
        scores.append(
            [
                {
                    "prompt": word.prompt,
                    "projection": word.probe_projection,
                    "fraction": float(word.absorption_fraction),
                    "full": word.is_full_absorption,
                }
                for word in results.word_results
            ]
        )
    (setting.folder / "absorption_found.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    run(Setting.from_command_line())

#!/usr/bin/env bash
# sae-probes 0.4.2: many test texts of its tasks are training texts as well.
#
# Guess: the 113 tasks of the package, on whose test AUC SAEs are compared, keep their test texts apart from their
# training texts; a few duplicates at most.
# Seen: a task's rows repeat texts, and the split draws rows. In the setting `normal` (at most 1,024 training rows) 17 %
# of the test rows of the median task have a text that is a training text too; in 71 of 113 tasks it is more than
# 10 %, and in the worst one 94 %.
# Who meets it: whoever reads its test AUC as that of unseen texts. A probe that remembers training texts looks better,
# the more so the more latents it may use.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps sae-probes==0.4.2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.2.6 'pandas==2.3.3' scikit-learn==1.7.2 \
    zstandard==0.25.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.util
import sys
import types
from importlib.metadata import version

import numpy as np

# The package's modules that read its tasks; what runs models, and imports libraries for that, is left out.
package, models = types.ModuleType("sae_probes"), types.ModuleType("sae_probes.generate_model_activations")
package.__path__ = list(importlib.util.find_spec("sae_probes").submodule_search_locations)
models.ensure_dataset_activations = None
sys.modules |= {"sae_probes": package, models.__name__: models}
data = importlib.import_module("sae_probes.utils_data")
print("sae-probes", version("sae-probes"))

shares = {}
for name in data.get_numbered_binary_tags():
    texts, y = data.read_numbered_dataset_df(name)["prompt"].to_numpy(), data.get_yvals(name)
    num_train = min(len(y) - 100, 1024)
    train, test = data.get_train_test_indices(y, num_train, len(y) - num_train - 1)
    shares[name] = np.isin(texts[test], texts[train]).mean()
values = np.array(list(shares.values()))
worst = max(shares, key=shares.get)
print(f"{len(values)} tasks; test rows with a training text: median {np.median(values):.1%}, {values.max():.1%} in {worst}")
print(f"more than 10 % in {(values > 0.1).sum()} tasks")
assert len(values) == 113, "the tasks have changed"
assert abs(np.median(values) - 0.169) < 5e-4 and abs(values.max() - 0.939) < 5e-4, "the behaviour has changed"
assert (values > 0.1).sum() == 71, "the behaviour has changed"
PYTHON

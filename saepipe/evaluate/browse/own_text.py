"""Latents that are active on a text of one's own: reads it with the language model and the SAE of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch

from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.errors import ConfigError
from saepipe.evaluate.browse.latent_json import short
from saepipe.evaluate.browse.open_run import OpenRun
from saepipe.evaluate.texts.token_texts import texts
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model, tokenizer_fingerprint
from saepipe.harvest.model_config import ModelConfig
from saepipe.train.rundir.load import SAE, load

MAX_LATENTS = 200
"""Latents of an answer: those whose activations come closest to their largest in the store."""


class OwnText:
    """A language model, and the SAEs of the runs that were trained on it, each loaded when it is first asked."""

    def __init__(self, model: LanguageModel, runs: Sequence[OpenRun]) -> None:
        self._model, self._lock = model, Lock()
        self._saes: dict[str, SAE] = {}
        self.refusals = {run.label: reason for run in runs if (reason := _other_model(model, run.store.info.model))}

    def read(self, run: OpenRun, text: str) -> dict[str, Any]:
        """Returns tokens and latents, as plain data.

        {"tokens": [text], "known": [whether the SAE acts there], "cut": tokens left out, as they are beyond a context,
        "latents": [{"latent", "max_act": the store's, "acts": [of each token]}], the most active first}

        Raises:
            ConfigError: if the run is of another model.
        """
        if run.label in self.refusals:
            raise ConfigError(f"{run.label} cannot read texts: {self.refusals[run.label]}")
        with self._lock:
            return self._read(run, text)

    @torch.no_grad()
    def _read(self, run: OpenRun, text: str) -> dict[str, Any]:
        info, tokenizer = run.store.info, self._model.tokenizer
        bos_id = info.model.get("bos_id", self._model.bos_id)
        ids = [bos_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        cut, ids = max(0, len(ids) - info.context_size), ids[: info.context_size]
        hooks = hooks_of(info.hook)
        captured = capture(self._model.model, torch.tensor([ids]), [HookPoint.parse(hook) for hook in hooks])
        x = torch.cat([captured[hook][0] for hook in hooks], dim=1)
        # As in the cache: stored in bfloat16, and without activations at special tokens.
        acts = self._sae(run).encode(x.to("cpu", torch.bfloat16).float())
        special = {*self._model.special_ids, bos_id}
        known = torch.tensor([token not in special for token in ids])
        acts[~known] = 0
        by_id = texts(tokenizer, ids)
        tokens = [by_id[token] for token in ids]
        return {"tokens": tokens, "known": known.tolist(), "cut": cut, "latents": _latents(acts, run)}

    def _sae(self, run: OpenRun) -> SAE:
        if run.label not in self._saes:
            self._saes[run.label] = load(run.store.run_folder())
        return self._saes[run.label]


def open_model(name: str, runs: Sequence[OpenRun]) -> OwnText:
    """Loads the model that is to read texts.

    Args:
        name: hub id or folder; `auto` is the one that made the cache of the first run.
        runs: the open runs.

    Raises:
        ConfigError: if it made the activations of none of the runs.
    """
    made_with = runs[0].store.info.model
    settings: dict[str, Any] = {"model": made_with["id"] if name == "auto" else name, "dtype": "float32"}
    if name == "auto":
        settings["revision"] = made_with.get("revision")
    own = OwnText(load_model(ModelConfig.parse(settings)), runs)
    if len(own.refusals) == len(runs):
        hint = "--model auto takes the one that the cache names"
        raise ConfigError(f"--model {name}: {next(iter(own.refusals.values()))}", hint=hint)
    return own


def _other_model(model: LanguageModel, made_with: Mapping[str, Any]) -> str | None:
    """Returns in what the model differs from the one that made a cache; None if it is the same, but for its dtype."""
    tokenizer = made_with.get("tokenizer")
    if tokenizer is not None and tokenizer != tokenizer_fingerprint(model.tokenizer):
        return f"the tokenizer of {model.config.model} is not that of {made_with.get('id')}, which made its cache"
    layers, name = made_with.get("class"), type(model.model).__name__
    if layers is not None and layers != name:
        return f"{model.config.model} is a {name}; its cache was made by a {layers}"
    return None


def _latents(acts: torch.Tensor, run: OpenRun) -> list[dict[str, Any]]:
    """Returns the active latents, those nearest to their largest activation first."""
    largest = torch.from_numpy(run.store.columns["max_act"]).nan_to_num(nan=torch.inf)
    peak = acts.amax(dim=0)
    heat = torch.where(largest.isinf(), peak.sign(), peak / largest)  # dead in the store, but active here
    order = heat.argsort(descending=True)[:MAX_LATENTS]
    return [
        {
            "latent": latent,
            "max_act": short(max(float(peak[latent]), float(largest[latent]) if largest[latent].isfinite() else 0.0)),
            "acts": [short(act) for act in acts[:, latent].tolist()],
        }
        for latent in order.tolist()
        if peak[latent] > 0
    ]

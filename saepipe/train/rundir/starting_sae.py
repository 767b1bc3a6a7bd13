"""The SAE of a finished run, trained or imported, from which another run starts training (`init.from`)."""

from __future__ import annotations

from pathlib import Path

import torch

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders import artifact
from saepipe.train.config_sections import InitConfig
from saepipe.train.formats import saelens
from saepipe.train.formats.rewrites import are_unit, decoder_norms, unit_rows
from saepipe.train.formats.source import short_name
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.run_files import SAE
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.step.state import Recipe, initial_params


def resolve_start(recipe: Recipe, cache: Cache) -> InitConfig:
    """Returns `init` with the path of the SAE that training starts from, for this seed, and the digest of its weights.

    Raises:
        ConfigError: if there is no such run, or its SAE does not fit the config, the hooks or the cache.
        CorruptDataError: if the run is unfinished or damaged.
    """
    config = recipe.config
    init = config.init
    assert init.source is not None, "the run starts from no other"
    path = Path(str(init.source).replace("{seed}", str(config.seed)))
    if not (path / artifact.MANIFEST).is_file():
        raise ConfigError(
            f"init.from: {path} holds no run",
            hint="give a run's folder; `saepipe import` makes one of another library's SAE",
        )
    run = open_run(path)
    for key, theirs, ours in (("hook", run.hook, config.site), ("target", run.target, config.target)):
        if (theirs is None) != (ours is None):
            kind = "an SAE" if theirs is None else f"a transcoder to {theirs}"
            raise ConfigError(f"init.from: {path} is {kind}", hint="start a run of the same kind from it")
        if len(hooks_of(str(theirs))) != len(hooks_of(str(ours))):
            raise ConfigError(f"init.from: {path} reads {theirs}, not {ours}", hint="set the same `hook` or `hooks`")
        if theirs != ours:
            raise ConfigError(f"init.from: {path} has the {key} {theirs}, not {ours}", hint=f"set `{key}`")
    weights = _digest(path)
    if init.weights not in (None, weights):
        raise ConfigError(
            f"init.from: {path} holds the weights {weights}, not {init.weights} (init.weights)",
            hint="leave out init.weights to start from what it holds now",
        )
    sae, params, metadata = saelens.read(path / SAE)
    _check_model(path, metadata.get("model_name"), cache, init.model)
    training_params(recipe, path, sae, params)
    return init.model_copy(update={"source": path, "weights": weights})


def starting_params(recipe: Recipe) -> Params:
    """Returns the parameters at step 0 of a run with `init.from`, on the run's scale, on the CPU.

    They have the memory layout of `initial_params`. A transcoder's b_in is 0, as its files keep it; its W_skip is 0 if
    the run has a skip and the SAE has none. An SAE with fewer latents than the run is widened: its latents come first,
    and the others are those of a fresh start.

    Raises:
        CorruptDataError: if the SAE's files are not those that the run was planned with.
    """
    init = recipe.config.init
    assert init.source is not None, "the run starts from no other"
    params = training_params(recipe, init.source, *saved_start(init))
    start = initial_params(recipe)
    for name, value in start.items():
        if name in params:
            first = tuple(slice(0, size) for size in params[name].shape)
            value[first].copy_(params[name])
    return start


def saved_start(init: InitConfig) -> tuple[Architecture, Params]:
    """Returns the SAE that a planned run starts from, as it is saved: for raw activations, on the CPU.

    Raises:
        CorruptDataError: if its files are not those that the run was planned with.
    """
    assert init.source is not None, "the run starts from no other"
    if not (init.source / SAE / saelens.WEIGHTS).is_file() or _digest(init.source) != init.weights:
        raise CorruptDataError(f"init.from: {init.source} no longer holds the weights {init.weights}")
    sae, params, _ = saelens.read(init.source / SAE)
    return sae, params


def training_params(recipe: Recipe, path: Path, saved: Architecture, params: Params) -> Params:
    """Returns the parameters of training of a saved SAE, on the run's scale; the function stays the same.

    Decoder rows are of unit norm there: those of a crosscoder over its hooks together, each on its own scale.

    Args:
        recipe: of the run that starts from it.
        path: run that holds the SAE, for messages.
        saved: the SAE's architecture in its form after training.
        params: its parameters, for raw activations.

    Raises:
        ConfigError: if the SAE is not of that architecture, or of another d_in or more latents, or no unit rows give
            its function.
    """
    sae = recipe.config.sae
    if (d_in := len(params["W_enc"])) != recipe.d_in:
        raise ConfigError(f"init.from: {path} has d_in {d_in}, not {recipe.d_in}", hint="use its cache")
    if saved.d_sae > sae.d_sae:
        hint = "set `sae.d_sae` to as many, or to more, which widens it"
        raise ConfigError(f"init.from: {path} has {saved.d_sae} latents, more than {sae.d_sae}", hint=hint)
    if (d_out := len(params["b_dec"])) != recipe.d_out:
        raise ConfigError(f"init.from: {path} has d_out {d_out}, not {recipe.d_out}", hint="use its cache")
    if "W_skip" in params and not recipe.config.skip:
        raise ConfigError(f"init.from: {path} holds a transcoder with a skip", hint="set `skip: true`")
    converted = sae.training_params(saved, params)
    if converted is None:
        several = " with a threshold for each latent" if saved.name == "jumprelu" else ""
        raise ConfigError(f"init.from: {path} holds a {saved.name}{several}, not a {sae.name}", hint="set `sae.name`")
    scaled = recipe.in_run_units(converted)
    norms = decoder_norms(scaled)
    return scaled if are_unit(norms) else _unit_rows(sae, path, scaled, norms)


def _unit_rows(sae: Architecture, path: Path, params: Params, norms: torch.Tensor) -> Params:
    if not bool((norms > 0).all()):
        raise ConfigError(
            f"init.from: {path} has {int((norms == 0).sum())} latents whose decoder row is zero",
            hint="training keeps decoder rows at unit norm; start from an SAE without such latents",
        )
    if not sae.elementwise:
        raise ConfigError(
            f"init.from: {path} has decoder rows of norm {float(norms.min()):.3g} to {float(norms.max()):.3g}; "
            f"training keeps them at 1, and with such rows a {sae.name} would choose other latents",
            hint="start from an SAE with decoder rows of unit norm",
        )
    return unit_rows(params)


def _digest(path: Path) -> str:
    return str(artifact.digest_file(path / SAE / saelens.WEIGHTS)["xxh3"])


def _check_model(path: Path, theirs: str | None, cache: Cache, given: str | None) -> None:
    """Raises ConfigError unless the SAE's model, if known, has the cache's name or the given one, by its last part."""
    ours = str(cache.attributes["model"]["id"])
    if theirs and short_name(theirs) not in (short_name(ours), short_name(given or ours)):
        raise ConfigError(
            f"init.from: {path} was trained on {theirs}, but {cache.path} was made with {ours}",
            hint=f"set init.model to {theirs} if that is meant, for example for a fine-tuned model",
        )

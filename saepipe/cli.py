"""The command line: one function a command, heavy imports inside, so that `saepipe --help` answers at once.

stdout is data, stderr is talk. Exit codes: saepipe/data/errors.py, and 1 for a bug of ours, 130 for Ctrl-C.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

import saepipe
from saepipe.data.errors import CorruptDataError, MachineError, Stopped, explain
from saepipe.data.terminal.console import Format, complain, data, draw, fits, show, talk, watching

if TYPE_CHECKING:
    from saepipe.data.config.base import Config
    from saepipe.evaluate.compare.table import Table

app = typer.Typer(no_args_is_help=True, help="Harvest once, train many, evaluate honestly.")
cache_app = typer.Typer(no_args_is_help=True, help="Look at an activation cache.")
config_app = typer.Typer(no_args_is_help=True, help="What configs may say.")
app.add_typer(cache_app, name="cache")
app.add_typer(config_app, name="config")

Stage = Literal["harvest", "train", "evaluate", "validate"]
Resume = Literal["auto", "never", "must"]
Theirs = Literal["saelens", "dictionary_learning", "sparsify", "gemma-scope"]
Target = Literal["saelens", "dictionary_learning", "sparsify", "neuronpedia", "delphi"]

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file; without one, the defaults.")]
Overrides = Annotated[list[str], typer.Option("--set", help="Overrides a key of the config: --set a.b=c.")]
FormatOption = Annotated[Format, typer.Option("--format", help="What stdout gets.")]
ResumeOption = Annotated[Resume, typer.Option("--resume", help="Go on with what is half-made: auto, never or must.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what it would cost.")]
Strict = Annotated[bool, typer.Option("--strict", help="An error of a health rule ends the run, with exit code 8.")]
Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]
Baseline = Annotated[Path | None, typer.Option(help="The run that the others are compared with.")]


def examples(*lines: str) -> str:
    """The end of a command's help; typer makes a line of each paragraph."""
    return "\n\n".join(["Examples:", *(escape(f"  saepipe {line}") for line in lines)])


@app.command(epilog=examples("demo", "demo --out /tmp/demo"))
def demo(out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo")) -> None:
    """Everything below on the embedded toy model: a cache, five SAEs, their metrics, a table and a report."""
    from saepipe.data.toy import CONFIGS
    from saepipe.train.config import TrainConfig

    with watching("human") as progress:
        cache = saepipe.harvest(CONFIGS / "harvest.yaml", out / "cache", progress=progress)
        training = TrainConfig.load(CONFIGS / "train.yaml", [f"cache={cache.path}"])
        runs = saepipe.train(training, out / "runs", progress=progress)
        saepipe.evaluate(runs, progress=progress)
    show_table(saepipe.compare(runs, runs[0]), "human")
    try:
        page = str(saepipe.report(runs, out / "report.html", baseline=runs[0]))
    except MachineError as error:  # all else of it needs no extra
        page = f"none: {error.message}; {error.hint}"
    talk.print(f"\ncache   {cache.path}\nruns    {out / 'runs'}\nconfigs {CONFIGS}\nreport  {escape(page)}")
    talk.print(f"next    {sys.argv[0]} browse {' '.join(map(str, runs))}")


@app.command(
    epilog=examples(
        "harvest --config configs/gemma-2-2b-l19.yaml --out caches/gemma --dry-run",
        "harvest --config configs/gemma-2-2b-l19.yaml --out caches/gemma",
        "harvest --set num_tokens=300k --out caches/toy",
    )
)
def harvest(
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006 - typer reads it once
    out: Annotated[Path, typer.Option(help="The cache's folder.")] = Path("cache"),
    dry_run: DryRun = False,
    resume: ResumeOption = "auto",
    format_: FormatOption = "human",
) -> None:
    """Run the language model once over text and keep its residual activations."""
    from saepipe.harvest.config import HarvestConfig
    from saepipe.harvest.plan import plan

    asked = HarvestConfig.load(config, set_)
    if dry_run:
        with watching("quiet"):
            planned = plan(asked, out)
        show(planned.to_dict(), format_)
        return
    with watching(format_) as progress:
        cache = saepipe.harvest(asked, out, resume=resume, progress=progress)
    show({"cache": str(out), "fingerprint": cache.fingerprint, "num_tokens": cache.num_tokens}, format_)


@app.command(
    epilog=examples(
        "train --config study.yaml --cache caches/gemma --out runs/study --dry-run",
        "train --config study.yaml --set 'seeds=[0, 1, 2]' --out runs/study --strict",
        "train --config study.yaml --set 'plugins=[mine.py]' --set 'penalties=[{name: mine, weight: 1}]'",
    )
)
def train(
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    cache: Annotated[Path | None, typer.Option(help="The cache's folder; overrides the config.")] = None,
    out: Annotated[Path, typer.Option(help="Runs go to OUT/<variant>/seed-<n>.")] = Path("runs"),
    dry_run: DryRun = False,
    resume: ResumeOption = "auto",
    strict: Strict = False,
    format_: FormatOption = "human",
) -> None:
    """Train every variant of a config from one cache, in one pass."""
    from saepipe.train.config import TrainConfig
    from saepipe.train.plan import plan

    asked = TrainConfig.load(config, [*set_, *([f"cache={cache}"] if cache else [])])
    if dry_run:
        show(plan(asked), format_)
        return
    with watching(format_) as progress:
        runs = saepipe.train(asked, out, resume=resume, strict=strict, progress=progress)
    show({"runs": [str(run) for run in runs], "findings": findings_of(runs)}, format_)


@app.command(
    epilog=examples(
        "evaluate runs/study/*/seed-*",
        "evaluate runs/study/*/seed-* --set 'metrics=[{name: core}]' --set features=null",
        "evaluate runs/study/*/seed-* --set cache=caches/gemma --dry-run",
    )
)
def evaluate(
    runs: Runs,
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    baseline: Annotated[Path | None, typer.Option(help="The run that geometry compares the others with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results go here instead of RUN/eval.")] = None,
    dry_run: DryRun = False,
    format_: FormatOption = "human",
) -> None:
    """Measure runs on held-out text; runs of one cache share the model's passes."""
    from saepipe.evaluate.config import EvaluateConfig
    from saepipe.evaluate.model.testbed import Passes
    from saepipe.evaluate.plan import plan
    from saepipe.evaluate.results.run_results import told

    asked = EvaluateConfig.load(config, [*set_, *([f"baseline={baseline}"] if baseline else [])])
    if dry_run:
        show(plan(runs, asked, out=out), format_)
        return
    passes = Passes()
    with watching(format_) as progress:
        results = saepipe.evaluate(runs, asked, out=out, progress=progress, passes=passes)
    findings = [*findings_of(runs), *told(results)]
    show({"results": [str(path) for path in results], "findings": findings, "passes": str(passes)}, format_)


@app.command(
    epilog=examples(
        "compare runs/study/*/seed-* --baseline runs/study/baseline/seed-0",
        "compare runs/study/*/seed-* --format json",
    )
)
def compare(
    runs: Runs,
    baseline: Baseline = None,
    format_: FormatOption = "human",
) -> None:
    """One table: the config keys in which the runs differ, and their metrics."""
    show_table(saepipe.compare(runs, baseline), format_)


@app.command(
    epilog=examples(
        "report runs/study/*/seed-* -o report.html",
        "report runs/study/*/seed-* runs/gemma-scope --baseline runs/study/baseline/seed-0",
    )
)
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("report.html"),
    baseline: Baseline = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    format_: FormatOption = "human",
) -> None:
    """One self-contained HTML page: findings first, then the table, the charts, and where everything came from."""
    with watching(format_):
        page = saepipe.report(runs, out, baseline=baseline, title=title)
    show({"report": str(page), "bytes": page.stat().st_size}, format_)


@app.command(
    epilog=examples("browse runs/study/*/seed-0", "browse runs/study/*/seed-0 --static site", "browse RUN --port 8600")
)
def browse(
    runs: Runs,
    static: Annotated[Path | None, typer.Option(help="Write it as files there, instead of serving it.")] = None,
    port: Annotated[int, typer.Option(help="Of 127.0.0.1; 0: any that is free.")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Also open it in the desktop's browser.")] = False,
    format_: FormatOption = "human",
) -> None:
    """Look at every latent: its examples, its neighbours, and its counterpart in each other run."""
    from saepipe.evaluate.browse.run import browse as browse_runs

    if static:
        with watching(format_) as progress:
            show({"page": str(browse_runs(runs, static=static, progress=progress))}, format_)
    else:
        browse_runs(runs, port=port, open_page=open_, tell=lambda url: show({"browse": url}, format_))


@app.command(
    epilog=examples(
        "export runs/study/baseline/seed-0 --to saelens --out exported",
        "export runs/study/baseline/seed-0 --to neuronpedia --out neuronpedia --set model=gemma-2-2b --set creator=me",
    )
)
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    to: Annotated[Target, typer.Option(help="The tool that is to read it.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    set_: Annotated[
        list[str], typer.Option("--set", help="A setting of neuronpedia or delphi: --set split=heldout.")
    ] = [],  # noqa: B006
    format_: FormatOption = "human",
) -> None:
    """An SAE, or what is known of its latents, as other tools read it."""
    from saepipe.data.config.yaml_file import apply_override
    from saepipe.data.folders.atomic_folder import written

    settings: dict[str, Any] = {}
    for override in set_:
        apply_override(settings, override)
    with watching(format_) as progress:
        folder = saepipe.export(run, to, out, progress=progress, **settings)
    files = [f"{name}  {size:,}" for name, size in written(folder).items()]
    show({"written": str(folder), "files": files}, format_)


@app.command(
    epilog=examples(
        "push runs/study/baseline/seed-0 --to hf://me/my-saes --dry-run",
        "push runs/study/*/seed-* --to hf://me/my-saes --private",
    )
)
def push(
    runs: Runs,
    to: Annotated[str, typer.Option(help=escape("hf://org/name[@branch][/folder]"))],
    dry_run: DryRun = False,
    private: Annotated[
        bool, typer.Option("--private", help="The repository is made private; a public one refused.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the SAEs, as the hub calls it: mit, cc-by-4.0.")] = None,
    local_paths: Annotated[
        bool, typer.Option("--local-paths", help="Files that name paths of this machine may go.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="The runs' cache, where it lies now.")] = None,
    format_: FormatOption = "human",
) -> None:
    """Put runs on the Hugging Face hub, with a model card that says what they are and what was found of them."""
    from saepipe.evaluate.hub.push import push as push_runs

    with watching(format_) as progress:
        sent = push_runs(
            runs,
            to,
            dry_run=dry_run,
            private=private or None,
            message=message,
            licence=licence,
            local_paths=local_paths,
            cache=cache,
            progress=progress,
        )
    if format_ == "human":
        card = sent.pop("card")
        show(sent | {"files": [f"{name}  {size:,}" for name, size in sent["files"].items()]}, format_)
        draw(["", card])
    else:
        show(sent, format_)


@app.command(
    epilog=examples("pull hf://me/my-saes/baseline/seed-0 --out runs/theirs", "pull hf://me/my-saes@v1 --out RUN")
)
def pull(
    source: Annotated[str, typer.Argument(help=escape("hf://org/name[@revision][/folder]"))],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    cache: Annotated[Path | None, typer.Option(help="To be checked to be the one that the run was made from.")] = None,
    trust_plugins: Annotated[
        bool, typer.Option("--trust-plugins", help="Run the Python files that its config names.")
    ] = False,
    format_: FormatOption = "human",
) -> None:
    """Get a run from the hub, checked to be, byte for byte, the one that was pushed."""
    from saepipe.evaluate.hub.pull import pull as pull_run

    with watching(format_):
        run = saepipe.open_run(pull_run(source, out, cache, trust_plugins=trust_plugins))
    show({"run": str(run.path), "fingerprint": run.fingerprint, "variant": run.variant, "hook": run.hook}, format_)


@app.command(
    epilog=examples(
        "validate ortsae",
        "validate hoyer --set 'plugins=[examples/hoyer.py]'",
        "validate all --out validation --page docs/penalties.md",
    )
)
def validate(
    penalties: Annotated[list[str], typer.Argument(help="`ortsae`, `absorption/lift` or `all`.")],
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Keeps what was trained, for the next call.")] = Path("validation"),
    page: Annotated[Path | None, typer.Option(help="A Markdown page whose table is to be written anew.")] = None,
    format_: FormatOption = "human",
) -> None:
    """Does a penalty do what it claims? Trained on worlds with known features, beside a baseline and a placebo."""
    from saepipe.evaluate.validate.arm_table import drawn, write_into
    from saepipe.evaluate.validate.config import ValidateConfig
    from saepipe.evaluate.validate.run import validate as run_validation

    asked = ValidateConfig.load(config, set_)
    with watching(format_) as progress:
        table = run_validation(penalties, asked, out, progress=progress)
    if page:
        write_into(page, table)
    if format_ == "json":
        data.print_json(table.to_json())
    elif format_ == "human":
        draw(drawn(table))


@app.command(
    "import",
    epilog=examples(
        "import layer_19/width_16k/average_l0_73 --from gemma-scope --cache caches/gemma --out runs/gemma-scope",
        "import run/layers.19 --from sparsify --cache caches/gemma --out runs/theirs --hook blocks.19.hook_resid_post",
    ),
)
def import_(
    path: Annotated[Path, typer.Argument(help="What the library wrote; only read.")],
    library: Annotated[Theirs, typer.Option("--from", help="The library that wrote it.")],
    cache: Annotated[Path, typer.Option(help="A cache of the model and hook that it was trained at.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    hook: Annotated[str | None, typer.Option(help="Where the source does not say: blocks.L.hook_resid_post.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the variant; without one, the source's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of its training, where the source does not say.")] = None,
    model: Annotated[str | None, typer.Option(help="The source's name for the cache's model, if another.")] = None,
    format_: FormatOption = "human",
) -> None:
    """Take an SAE from elsewhere as a run, to be evaluated and compared beside your own."""
    from saepipe.data.folders.health import Health
    from saepipe.train.rundir.importing import import_sae
    from saepipe.train.rundir.load import open_run

    run = open_run(import_sae(path, library, cache, out, hook=hook, name=name, seed=seed, model=model))
    norms = Health.read(out).audit["decoder_norms"]
    show(
        {
            "run": str(out),
            "fingerprint": run.fingerprint,
            "variant": run.variant,
            "seed": run.seed,
            "hook": run.hook,
            **run.settings["sae"],
            "decoder_norms": f"{norms['min']:.4g} to {norms['max']:.4g}",
        },
        format_,
    )


@cache_app.command(epilog=examples("cache info caches/gemma"))
def info(cache: Path, format_: FormatOption = "human") -> None:
    """What a cache holds, and how large it is."""
    from saepipe.data.cache.cache import Cache

    opened = Cache.open(cache)
    stored = {name: entry["bytes"] for name, entry in opened.files.items() if "acts/" in name or "int8/" in name}
    rows = opened.num_tokens + opened.attributes["num_heldout_contexts"] * opened.attributes["context_size"]
    raw = rows * opened.d_in * 2 * len(opened.hooks)
    sizes = {"raw_bytes": raw, "stored_bytes": sum(stored.values()), "ratio": round(raw / sum(stored.values()), 3)}
    show({"fingerprint": opened.fingerprint, **sizes, **opened.attributes}, format_)


@cache_app.command(epilog=examples("cache verify caches/gemma", "cache verify caches/gemma --repair"))
def verify(
    cache: Path,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged, so that harvest makes it anew.")
    ] = False,
    format_: FormatOption = "human",
) -> None:
    """Read every file of a cache and compare it with the manifest; exit code 4 if one differs."""
    from saepipe.data.folders.artifact import damaged_files, open_committed

    if repair:
        from saepipe.data.cache.repair import repair as repair_cache

        show(repair_cache(cache), format_)
        return
    _, lines = open_committed(cache, "cache")
    damage = list(damaged_files(cache, lines))
    show({"files": sum(len(line["files"]) for line in lines), "damaged": damage}, format_)
    if damage:
        raise CorruptDataError(
            f"{len(damage)} files of {cache} are damaged:\n  " + "\n  ".join(damage),
            hint=f"saepipe cache verify --repair {cache}",
        )


@config_app.command(epilog=examples("config schema train > train.schema.json", "config schema train --plugin mine.py"))
def schema(
    stage: Annotated[Stage, typer.Argument(help="Whose config.")],
    plugins: Annotated[list[Path], typer.Option("--plugin", help="A file whose components count too.")] = [],  # noqa: B006
) -> None:
    """The JSON Schema of a stage's config, for an editor that completes and checks YAML."""
    from saepipe.data.config.component import import_plugins
    from saepipe.data.config.schema import json_schema

    import_plugins(plugins)
    data.print_json(json.dumps(json_schema(config_class(stage))))


@app.command(epilog=examples("doctor", "doctor --format json"))
def doctor(format_: FormatOption = "human") -> None:
    """Versions, devices and disk, and whether the embedded model loads and runs here."""
    import shutil

    import torch

    from saepipe.data.folders.artifact import provenance
    from saepipe.harvest.capture import capture
    from saepipe.harvest.hooks import HookPoint
    from saepipe.harvest.model import ModelConfig, load_model

    with watching("quiet"):
        lm = load_model(ModelConfig(device="cpu"))
    hook = HookPoint(lm.num_layers - 1, "resid_post")
    x = capture(lm.model, torch.tensor([[lm.bos_id, *lm.tokenizer("a first look")["input_ids"]]]), [hook])[str(hook)]
    if not torch.isfinite(x).all():
        raise MachineError("the embedded model gives NaN or Inf on this machine", hint="reinstall torch")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = {"cpus": os.cpu_count(), "torch_threads": torch.get_num_threads(), "gpus": gpus or "none"}
    show({**provenance(), **found, "free_disk": shutil.disk_usage(".").free, "toy_runs": "yes"}, format_)


def config_class(stage: Stage) -> type[Config]:
    """The class of a stage's config."""
    from saepipe.evaluate.config import EvaluateConfig
    from saepipe.evaluate.validate.config import ValidateConfig
    from saepipe.harvest.config import HarvestConfig
    from saepipe.train.config import TrainConfig

    classes: dict[Stage, type[Config]] = {
        "harvest": HarvestConfig,
        "train": TrainConfig,
        "evaluate": EvaluateConfig,
        "validate": ValidateConfig,
    }
    return classes[stage]


def show_table(table: Table, format_: Format) -> None:
    """A comparison: what the runs are, what was measured of them, and what the table does not show."""
    from saepipe.evaluate.compare.terminal import drawn

    if format_ == "json":
        data.print_json(table.to_json())
    elif format_ == "human":
        draw(drawn(table, fits))


def findings_of(runs: Sequence[Path]) -> list[str]:
    """What the rules of health have to say of each run, a line each."""
    from saepipe.data.folders.health import Health

    return [f"{run}: {finding}" for run in runs for finding in Health.read(run).findings]


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and gives its exit code; errors go to stderr, as JSON where that is the format."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(app(args=arguments, standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt) as error:
        code, message, hint = explain(error)
        if code == 1:
            talk.print_exception()
        as_json = "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
        complain(code, message, hint, as_json=as_json)
        return code


def _stop(*_: object) -> None:
    raise Stopped("stopped by SIGTERM", hint="run the same command again to go on")


if __name__ == "__main__":
    sys.exit(main())

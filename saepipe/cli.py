"""The command line: one function per command, with heavy imports inside, so that `saepipe --help` answers at once.

Data goes to stdout, everything else to stderr. Exit codes: saepipe/data/errors.py; 1 is a bug of ours, 130 Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

import saepipe
from saepipe.data.errors import (
    ConfigError,
    CorruptDataError,
    Interrupted,
    MachineError,
    OutOfTime,
    RemoteError,
    Stopped,
    explain,
)
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.slurm.requeue import requeue, without_progress
from saepipe.data.terminal.console import (
    Format,
    announce,
    clear_notice,
    fits,
    print_error,
    print_parts,
    show,
    show_parts,
    show_progress,
    stderr,
    stdout,
)
from saepipe.data.terminal.display import aligned
from saepipe.data.terminal.signals import raising_on_signals

if TYPE_CHECKING:
    from saepipe.data.config.base import Config
    from saepipe.data.slurm.script import Job
    from saepipe.evaluate.compare.table import Table

app = typer.Typer(no_args_is_help=True, help="Harvest once, train many, evaluate honestly.")
cache_app = typer.Typer(no_args_is_help=True, help="Inspect, verify or repair an activation cache.")
config_app = typer.Typer(no_args_is_help=True, help="Describe the config of a stage.")
app.add_typer(cache_app, name="cache")
app.add_typer(config_app, name="config")

Stage = Literal["harvest", "train", "evaluate", "validate", "study"]
BenchWorld = Literal["synthbench-v2"]
Theirs = Literal["saelens", "dictionary_learning", "sparsify", "gemma-scope", "llama-scope", "qwen-scope"]
Target = Literal["saelens", "dictionary_learning", "sparsify", "circuit-tracer", "neuronpedia", "delphi"]

ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file of settings; defaults if omitted.")]
Overrides = Annotated[list[str], typer.Option("--set", help="Override one setting: --set a.b=c.")]
FormatOption = Annotated[Format, typer.Option("--format", help="Output format.")]
ResumeOption = Annotated[
    ResumeMode, typer.Option("--resume", help="How to treat unfinished output: auto, never, must.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and what it would cost.")]
LauncherOption = Annotated[
    Literal["slurm"] | None,
    typer.Option("--launcher", help="Submit the command as a job; --dry-run prints its script."),
]
SbatchOption = Annotated[
    list[str], typer.Option("--sbatch", help="Option of sbatch for the job: --sbatch time=8:00:00 --sbatch array=1-8.")
]
ShareOption = Annotated[str, typer.Option("--share", help="Do a share of the work, if other jobs do the others: 2/8.")]
NumRanks = Annotated[
    int | None, typer.Option("--ranks", min=1, help="With --dry-run: plan for so many ranks of torchrun.")
]
Strict = Annotated[bool, typer.Option("--strict", help="End a run at the first error of a health rule; exit code 8.")]
Runs = Annotated[
    list[Path], typer.Argument(help="Run folders; the folder of a variant or study means all runs below it.")
]
Baseline = Annotated[Path | None, typer.Option(help="Run, or variant, that the others are compared with.")]


def examples(*lines: str) -> str:
    """Returns the epilog of a command's help; typer prints one line per paragraph."""
    return "\n\n".join(["Examples:", *(escape(f"  saepipe {line}") for line in lines)])


def refuse_ranks(ranks: int | None) -> None:
    """Raises ConfigError for --ranks without --dry-run."""
    if ranks is not None:
        hint = f"torchrun --nproc-per-node {ranks} -m saepipe ..."
        raise ConfigError(f"--ranks {ranks} only plans, with --dry-run", hint=hint)


@app.command(epilog=examples("demo", "demo --out /tmp/demo", "demo --real --out real"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo"),
    real: Annotated[bool, typer.Option("--real", help="Study SmolLM2-135M instead of the toy (100 MB, once).")] = False,
    text: Annotated[Path | None, typer.Option(help="Text to read instead of speeches, with --real.")] = None,
) -> None:
    """Run a whole study: a baseline, a penalty that helps and a placebo, with three seeds, verdicts and a report."""
    if text and not real:
        raise ConfigError("--text is for --real; the toy model knows only its own text", hint="saepipe demo --real")
    with show_progress("human") as progress:
        if real:
            from saepipe.evaluate.real_study import run_real_study

            runs = run_real_study(out, text, progress)
        else:
            from saepipe.data.toy import CONFIGS
            from saepipe.evaluate.demo import run_study
            from saepipe.harvest.config import HarvestConfig

            runs = run_study(CONFIGS, HarvestConfig.load(CONFIGS / "harvest.yaml"), out, progress)
    show_table(saepipe.compare(runs, runs[0]), "human")
    try:
        page = str(saepipe.report(runs, out / "report.html", baseline=runs[0]))
    except MachineError as error:  # only the report needs an extra
        page = f"none: {error.message}; {error.hint}"
    paths = {"cache": out / "cache", "runs": out / "runs", "report": page}
    for name, path in paths.items():
        stderr.print(f"{name:7} {escape(str(path))}", soft_wrap=True)
    browsable = [run for run in runs if (run / "features").is_dir()]
    stderr.print(f"next    {sys.argv[0]} browse {' '.join(map(str, browsable))}", soft_wrap=True)


@app.command(
    epilog=examples(
        "harvest --config configs/gemma-2-2b-l19.yaml --out caches/gemma --dry-run",
        "harvest --config configs/gemma-2-2b-l19.yaml --out caches/gemma",
        "harvest --set num_tokens=300k --out caches/toy",
    )
)
def harvest(
    context: typer.Context,
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006 - typer reads it once
    out: Annotated[Path, typer.Option(help="Folder of the cache.")] = Path("cache"),
    dry_run: DryRun = False,
    ranks: NumRanks = None,
    resume: ResumeOption = "auto",
    launcher: LauncherOption = None,
    sbatch: SbatchOption = [],  # noqa: B006
    format_: FormatOption = "human",
) -> None:
    """Run the language model over text once and store its activations."""
    from saepipe.harvest.config import HarvestConfig

    settings = HarvestConfig.load(config, set_)
    if launcher or sbatch:
        from saepipe.evaluate.job_checks import check_harvest

        refuse_ranks(ranks)
        check = partial(check_harvest, config=settings, out=out, resume=resume)
        launch(context, launcher, sbatch, [out], dry_run, format_, check)
        return
    if dry_run:
        from saepipe.harvest.plan import plan

        with show_progress("quiet"):
            planned = plan(settings, out, ranks=ranks or 1)
        show_parts(planned.to_dict(), aligned(planned.page()), format_)
        return
    refuse_ranks(ranks)
    with show_progress(format_) as progress:
        cache = saepipe.harvest(settings, out, resume=resume, progress=progress)
    show({"cache": str(out), "fingerprint": cache.fingerprint, "num_tokens": cache.num_tokens}, format_)


@app.command(
    epilog=examples(
        "train --config study.yaml --cache caches/gemma --out runs/study --dry-run",
        "train --config study.yaml --set 'seeds=[0, 1, 2]' --out runs/study --strict",
        "train --config study.yaml --set 'plugins=[mine.py]' --set 'penalties=[{name: mine, weight: 1}]'",
    )
)
def train(
    context: typer.Context,
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    cache: Annotated[Path | None, typer.Option(help="Folder of the cache; overrides the config.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs, OUT/<variant>/seed-<n>.")] = Path("runs"),
    dry_run: DryRun = False,
    ranks: NumRanks = None,
    resume: ResumeOption = "auto",
    strict: Strict = False,
    share: ShareOption = "1/1",
    launcher: LauncherOption = None,
    sbatch: SbatchOption = [],  # noqa: B006
    format_: FormatOption = "human",
) -> None:
    """Train every variant of a config from one cache, in one pass."""
    from saepipe.data.ranks.launch import Ranks
    from saepipe.evaluate.compare.finding_lines import lines_by_run, lines_by_variant
    from saepipe.train.config import TrainConfig

    settings = TrainConfig.load(config, [*set_, *([f"cache={cache}"] if cache else [])])
    if launcher or sbatch:
        from saepipe.evaluate.job_checks import check_train

        refuse_ranks(ranks)
        check = partial(check_train, config=settings, out=out, share=Share.of(share), resume=resume)
        launch(context, launcher, sbatch, [out], dry_run, format_, check)
        return
    if dry_run and settings.stream:
        from saepipe.evaluate.streaming.plan import dry_run_stream

        refuse_ranks(ranks)
        with show_progress("quiet"):
            both = dry_run_stream(settings, out)
        show_parts(both.to_dict(), both.render(), format_)
        return
    if dry_run:
        from saepipe.train.dry_run import dry_run as dry_run_of
        from saepipe.train.dry_run import render

        plan = dry_run_of(settings, ranks=ranks)
        show_parts(plan.to_dict(), render(plan), format_)
        return
    refuse_ranks(ranks)
    with show_progress(format_) as progress:
        runs = saepipe.train(settings, out, resume=resume, strict=strict, share=share, progress=progress)
    if not Ranks.of_environment().is_first:
        return
    findings = lines_by_run(runs) if format_ == "json" else lines_by_variant(runs, evaluated=False)
    show({"runs": [str(run) for run in runs], "findings": findings}, format_)


@app.command(hidden=True, epilog=examples("stream runs/study/stream"))
def stream(
    folder: Annotated[Path, typer.Argument(help="Folder of the stream, RUNS/stream.")],
    format_: FormatOption = "human",
) -> None:
    """Harvest the pools that a training with `cache: stream` waits for; the training starts this itself."""
    from saepipe.data.terminal.signals import end_with_parent
    from saepipe.evaluate.streaming.run import run_harvest

    end_with_parent()
    with show_progress(format_) as progress:
        run_harvest(folder, progress)


@app.command(
    epilog=examples(
        "evaluate runs/study/*/seed-*",
        "evaluate runs/study/*/seed-* --set 'metrics=[{name: core}]' --set features=null",
        "evaluate runs/study/*/seed-* --set cache=caches/gemma --dry-run",
    )
)
def evaluate(
    context: typer.Context,
    runs: Runs,
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    baseline: Annotated[Path | None, typer.Option(help="Run that geometry compares the others with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results instead of RUN/eval.")] = None,
    dry_run: DryRun = False,
    share: ShareOption = "1/1",
    launcher: LauncherOption = None,
    sbatch: SbatchOption = [],  # noqa: B006
    format_: FormatOption = "human",
) -> None:
    """Measure runs on held-out text; runs of the same cache share the model's passes."""
    from saepipe.evaluate.compare.finding_lines import lines_by_run
    from saepipe.evaluate.compare.table import table_of_results
    from saepipe.evaluate.compare.terminal import pointer_to_findings, render_variants
    from saepipe.evaluate.config import EvaluateConfig
    from saepipe.evaluate.model.testbed import Passes

    settings = EvaluateConfig.load(config, [*set_, *([f"baseline={baseline}"] if baseline else [])])
    if launcher or sbatch:
        from saepipe.evaluate.job_checks import check_evaluate

        Share.of(share)
        check = partial(check_evaluate, runs=runs, config=settings, out=out)
        launch(context, launcher, sbatch, [out] if out else runs, dry_run, format_, check)
        return
    if dry_run:
        from saepipe.evaluate.dry_run import dry_run as dry_run_of
        from saepipe.evaluate.dry_run import page

        with show_progress("quiet"):
            planned = dry_run_of(runs, settings, out=out)
        show_parts(planned, aligned(page(planned)), format_)
        return
    passes = Passes()
    with show_progress(format_) as progress:
        results = saepipe.evaluate(runs, settings, out=out, share=share, progress=progress, passes=passes)
    if format_ == "human":
        folders = list(dict.fromkeys(path.parent for path in results))
        if folders and share == "1/1":  # of a share, the others may be missing
            table = table_of_results(runs, folders)
            print_parts([*render_variants(table, fits), *pointer_to_findings(table)])
        where = f" in {len(folders)} folders such as {folders[-1]}" if folders else ""
        show({"results": f"{len(results)} files{where}", "passes": str(passes)}, format_)
    else:
        findings = lines_by_run(runs, results)
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
    seeds: Annotated[bool, typer.Option("--seeds", help="Also show every single run.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="Also show the settings in which runs differ.")] = False,
    format_: FormatOption = "human",
) -> None:
    """Compare variants: the means of their metrics over seeds and, with a baseline, a verdict on each."""
    show_table(saepipe.compare(runs, baseline), format_, seeds=seeds, settings=settings)


@app.command(
    epilog=examples(
        "study examples/study.yaml --out study --dry-run",
        "study examples/study.yaml --out study",
        "study examples/study.yaml --out study --seeds +3",
    )
)
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="YAML file of the study: question, arms, seeds, primary metrics.")],
    set_: Overrides = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of cache, runs, report and verdict.")] = Path("study"),
    seeds: Annotated[int, typer.Option("--seeds", help="Seeds beyond those of the file: --seeds +3.")] = 0,
    status: Annotated[bool, typer.Option("--status", help="Print how far the study is, and do nothing.")] = False,
    dry_run: DryRun = False,
    launcher: LauncherOption = None,
    sbatch: SbatchOption = [],  # noqa: B006
    format_: FormatOption = "human",
) -> None:
    """Answer a question: train every arm at the same L0 over seeds, compare, and say what may be claimed."""
    from saepipe.evaluate.study import plan, run
    from saepipe.evaluate.study import status as standing
    from saepipe.evaluate.study.config import StudyConfig

    settings = StudyConfig.load(file, [*set_, *([f"more_seeds={seeds}"] if seeds else [])])
    if launcher or sbatch:
        from saepipe.evaluate.job_checks import check_study

        check = partial(check_study, config=settings, out=out)
        launch(context, launcher, sbatch, [out], dry_run, format_, check)
        return
    if status:
        where = standing.status(settings, out)
        show_parts(where, standing.render(where), format_)
        return
    if dry_run:
        with show_progress("quiet"):
            planned = plan.plan_study(settings, out)
        show_parts(planned.to_dict(), aligned(planned.page()), format_)
        return
    with show_progress(format_) as progress:
        outcome = run.study(settings, out, progress=progress)
    if format_ == "human":
        for table in outcome.tables:
            show_table(table, format_)
    pages = ", ".join(map(str, outcome.reports)) or "none"
    show_parts(outcome.to_dict(), [f"\n{outcome.paragraph}", f"\nreport  {pages}"], format_)


@app.command(epilog=examples("findings runs/study/*/seed-*"))
def findings(runs: Runs, format_: FormatOption = "human") -> None:
    """Print what the health rules found in runs and their evaluations, one line per rule and variant."""
    from saepipe.evaluate.compare.finding_lines import lines_by_variant

    show({"findings": lines_by_variant(runs)}, format_)


@app.command(
    epilog=examples(
        "report runs/study/*/seed-* -o report.html",
        "report runs/study/*/seed-* runs/gemma-scope --baseline runs/study/baseline/seed-0",
        "report runs/study/*/seed-* --browse http://127.0.0.1:8000/",
    )
)
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")] = Path("report.html"),
    baseline: Baseline = None,
    title: Annotated[str | None, typer.Option(help="Page title.")] = None,
    browse: Annotated[
        str | None,
        typer.Option(help="Address of a feature browser, or its --static folder; the page links latents to it."),
    ] = None,
    format_: FormatOption = "human",
) -> None:
    """Write one self-contained HTML page: conclusions, verdicts, charts, findings, and the provenance of every run."""
    with show_progress(format_):
        page = saepipe.report(runs, out, baseline=baseline, title=title, browse=browse)
    show({"report": str(page), "bytes": page.stat().st_size}, format_)


@app.command(
    epilog=examples("browse runs/study/*/seed-0", "browse runs/study/*/seed-0 --static site", "browse RUN --model auto")
)
def browse(
    runs: Runs,
    static: Annotated[Path | None, typer.Option(help="Write static files to this folder instead of serving.")] = None,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1 (0 picks a free one).")] = 0,
    open_: Annotated[bool, typer.Option("--open", help="Also open the page in the default browser.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Model for texts of your own: hub id, folder, or auto, the cache's.")
    ] = None,
    format_: FormatOption = "human",
) -> None:
    """Browse every latent: its examples, its neighbours, and its counterpart in each other run."""
    from saepipe.evaluate.browse.run import browse as browse_runs

    if static:
        with show_progress(format_) as progress:
            show({"page": str(browse_runs(runs, static=static, model=model, progress=progress))}, format_)
    else:
        browse_runs(runs, port=port, open_page=open_, model=model, announce=lambda url: show({"browse": url}, format_))


@app.command(
    epilog=examples(
        "export runs/study/baseline/seed-0 --to saelens --out exported",
        "export runs/study/baseline/seed-0 --to neuronpedia --out neuronpedia --set model=gemma-2-2b --set creator=me",
    )
)
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[Target, typer.Option(help="Tool to export for.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    set_: Annotated[
        list[str], typer.Option("--set", help="Setting of neuronpedia or delphi: --set split=heldout.")
    ] = [],  # noqa: B006
    format_: FormatOption = "human",
) -> None:
    """Export an SAE, or its feature store, for another tool."""
    from saepipe.data.config.yaml_file import apply_override
    from saepipe.data.folders.atomic_folder import file_sizes

    settings: dict[str, Any] = {}
    for override in set_:
        apply_override(settings, override)
    with show_progress(format_) as progress:
        folder = saepipe.export(run, to, out, progress=progress, **settings)
    files = [f"{name}  {size:,}" for name, size in file_sizes(folder).items()]
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
        bool, typer.Option("--private", help="Create a private repository; refuse a public one.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the SAEs by its hub name: mit, cc-by-4.0.")] = None,
    local_paths: Annotated[
        bool, typer.Option("--local-paths", help="Allow files that contain paths of this machine.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Current folder of the runs' cache.")] = None,
    format_: FormatOption = "human",
) -> None:
    """Push runs to the Hugging Face hub, with a model card that describes them and their health findings."""
    from saepipe.evaluate.hub.push import push as push_runs
    from saepipe.evaluate.hub.summary import summary

    with show_progress(format_) as progress:
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
    show_parts(sent, [*summary(sent), "", "README.md", sent["card"]], format_)


@app.command(
    epilog=examples("pull hf://me/my-saes/baseline/seed-0 --out runs/theirs", "pull hf://me/my-saes@v1 --out RUN")
)
def pull(
    source: Annotated[str, typer.Argument(help=escape("hf://org/name[@revision][/folder]"))],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    cache: Annotated[Path | None, typer.Option(help="Cache to check against the run.")] = None,
    trust_plugins: Annotated[
        bool, typer.Option("--trust-plugins", help="Run the Python files that the config names.")
    ] = False,
    format_: FormatOption = "human",
) -> None:
    """Pull a run from the hub, verified byte for byte against what was pushed."""
    from saepipe.evaluate.hub.pull import pull as pull_run

    with show_progress(format_):
        run = saepipe.open_run(pull_run(source, out, cache, trust_plugins=trust_plugins))
    show({"run": str(run.path), "fingerprint": run.fingerprint, "variant": run.variant, "hook": run.sites}, format_)


@app.command(
    epilog=examples(
        "validate ortsae",
        "validate hoyer --set 'plugins=[examples/hoyer.py]'",
        "validate all --out validation --page docs/penalties.md",
        "validate ortsae --world synthbench-v2",
        "validate --world synthbench-v2 --set size=full",
    )
)
def validate(
    penalties: Annotated[
        list[str], typer.Argument(help="Penalties such as `ortsae` or `absorption/lift`, or `all`.", show_default=False)
    ] = [],  # noqa: B006
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder that keeps trained SAEs for the next call.")] = Path("validation"),
    page: Annotated[Path | None, typer.Option(help="Markdown page whose table is rewritten.")] = None,
    world: Annotated[
        BenchWorld | None, typer.Option(help="Benchmark's world in place of the small ones; alone: its published SAEs.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Write that world's training tokens as a cache for `saepipe train`, and end.")
    ] = None,
    format_: FormatOption = "human",
) -> None:
    """Test whether a penalty does what it claims, on worlds with known features, beside a baseline and a placebo."""
    if world:
        if page:
            raise ConfigError("--page rewrites the table of the small worlds", hint="leave out --page or --world")
        validate_on_benchmark(penalties, config, set_, out, cache, format_)
        return
    if not penalties or cache:
        missing = "--cache writes tokens of a benchmark's world" if cache else "no penalty is named"
        raise ConfigError(missing, hint="saepipe validate all, or --world synthbench-v2")
    from saepipe.evaluate.validate.arm_table import render, write_into
    from saepipe.evaluate.validate.config import ValidateConfig
    from saepipe.evaluate.validate.run import validate as run_validation

    settings = ValidateConfig.load(config, set_)
    with show_progress(format_) as progress:
        table = run_validation(penalties, settings, out, progress=progress)
    if page:
        write_into(page, table)
    if format_ == "json":
        stdout.print_json(table.to_json())
    elif format_ == "human":
        print_parts(render(table, fits))


@app.command(
    "import",
    epilog=examples(
        "import layer_19/width_16k/average_l0_73 --from gemma-scope --cache caches/gemma --out runs/gemma-scope",
        "import run/layers.19 --from sparsify --cache caches/gemma --out runs/theirs --hook blocks.19.hook_resid_post",
    ),
)
def import_(
    path: Annotated[Path, typer.Argument(help="Files that the library wrote; they are only read.")],
    library: Annotated[Theirs, typer.Option("--from", help="Library that wrote them.")],
    cache: Annotated[Path, typer.Option(help="Cache of the model and hook that it was trained at.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    hook: Annotated[str | None, typer.Option(help="Hook, if the source names none: blocks.L.hook_resid_post.")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="What a transcoder reconstructs, if the source does not say: blocks.L.hook_mlp_out."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the variant; default: the source's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="Training seed, if the source does not give it.")] = None,
    model: Annotated[str | None, typer.Option(help="The source's name for the cache's model, if it differs.")] = None,
    k: Annotated[int | None, typer.Option(help="Active latents per token, if qwen-scope's path lacks them.")] = None,
    activation_norm: Annotated[
        float | None, typer.Option(help="Mean norm of its training activations, if llama-scope's files lack it.")
    ] = None,
    allow_pickle_format: Annotated[
        bool, typer.Option("--allow-pickle-format", help="Read a .pt file, which can hold code, as plain tensors.")
    ] = False,
    format_: FormatOption = "human",
) -> None:
    """Import an SAE of another library as a run, to evaluate and compare it beside your own."""
    from saepipe.data.folders.health import Health
    from saepipe.train.rundir.finished_run import open_run
    from saepipe.train.rundir.importing import import_sae

    imported = import_sae(
        path,
        library,
        cache,
        out,
        hook=hook,
        target=target,
        name=name,
        seed=seed,
        model=model,
        k=k,
        activation_norm=activation_norm,
        allow_pickle_format=allow_pickle_format,
    )
    run = open_run(imported)
    norms = Health.read(run.path).audit["decoder_norms"]
    show(
        {
            "run": str(out),
            "fingerprint": run.fingerprint,
            "variant": run.variant,
            "seed": run.seed,
            "hook": run.sites,
            **run.settings["sae"],
            "decoder_norms": f"{norms['min']:.4g} to {norms['max']:.4g}",
        },
        format_,
    )


@cache_app.command(epilog=examples("cache info caches/gemma"))
def info(cache: Path, format_: FormatOption = "human") -> None:
    """Print what a cache holds and how large it is."""
    from saepipe.data.cache.cache import Cache
    from saepipe.data.cache.cache_page import cache_page, sizes

    opened = Cache.open(cache)
    facts = {"fingerprint": opened.fingerprint, **sizes(opened), **opened.attributes}
    show_parts(facts, aligned(cache_page(opened)), format_)


@cache_app.command(
    "verify",
    epilog=examples(
        "cache verify caches/gemma", "cache verify caches/gemma --against-text", "cache verify caches/gemma --repair"
    ),
)
def verify_cache(
    cache: Path,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop damaged parts, so that harvest rebuilds them.")
    ] = False,
    against_text: Annotated[
        bool, typer.Option("--against-text", help="Also tokenise a sample of the text again, and compare it.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run a tokenizer's own code for that, if the harvest did.")
    ] = False,
    format_: FormatOption = "human",
) -> None:
    """Compare every file of a cache, and of the kept work beside it, with its manifest; exit code 4 if one differs.

    With --against-text, exit code 2 if the text is another one than the cache was made of.
    """
    from saepipe.evaluate.verify import verified_cache as verification

    if repair and against_text:
        raise ConfigError("--repair and --against-text exclude each other", hint="first repair, then compare the text")
    if repair:
        show(verification.repair_cache(cache), format_)
        return
    with show_progress(format_) as progress:
        verified = verification.verify_cache(
            cache, against_text=against_text, trust_remote_code=trust_remote_code, say=progress.say
        )
    show(verified.facts, format_)
    if verified.damaged:
        raise CorruptDataError(
            f"damaged files of {cache}: {len(verified.damaged)}\n  " + "\n  ".join(verified.damaged),
            hint=f"saepipe cache verify --repair {cache}",
        )


@app.command(epilog=examples("verify runs", "verify runs/study/baseline/seed-0 --repair", "verify caches/gemma"))
def verify(
    path: Annotated[Path, typer.Argument(help="Cache, run, feature store, results, or a folder that holds some.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged and can be made again, and say by which command.")
    ] = False,
    format_: FormatOption = "human",
) -> None:
    """Compare everything that saepipe made at or below a path with its seals; exit code 4 if anything is damaged."""
    from saepipe.evaluate.verify.run import verify as verify_path

    verified = verify_path(path, repair=repair)
    show(verified.to_dict(), format_)
    wrong = verified.lost if repair else verified.damaged
    if wrong:
        sentence = "cannot be made again" if repair else "damaged"
        hint = None if repair else f"saepipe verify --repair {path}"
        raise CorruptDataError(f"{sentence}, below {path}: {len(wrong)}\n  " + "\n  ".join(wrong), hint=hint)


@config_app.command(epilog=examples("config schema train > train.schema.json", "config schema train --plugin mine.py"))
def schema(
    stage: Annotated[Stage, typer.Argument(help="Stage whose config is described.")],
    plugins: Annotated[list[Path], typer.Option("--plugin", help="Plugin whose components are included.")] = [],  # noqa: B006
) -> None:
    """Print the JSON Schema of a stage's config, for editors that complete and check YAML."""
    from saepipe.data.config.component import import_plugins
    from saepipe.data.config.schema import json_schema

    import_plugins(plugins)
    stdout.print_json(json.dumps(json_schema(config_class(stage))))


@app.command(epilog=examples("doctor", "doctor --format json"))
def doctor(format_: FormatOption = "human") -> None:
    """Print versions, devices and disk space, and check that the embedded model runs here."""
    from saepipe.harvest.doctor import examine

    with show_progress("quiet"):
        show(examine(), format_)


def launch(
    context: typer.Context,
    launcher: str | None,
    sbatch: list[str],
    outs: list[Path],
    dry_run: bool,
    format_: Format,
    check: Callable[[Job], None],
) -> None:
    """Submits the command as a job of Slurm, or prints its script; `check` raises what would end it at its start."""
    from saepipe.data.slurm.script import Job
    from saepipe.data.slurm.submit import submit

    if launcher is None:
        raise ConfigError("--sbatch is about a job", hint="add --launcher slurm")
    job = Job.of(context.obj, sbatch, outs)
    try:
        check(job)
    except RemoteError as error:  # the job's machine may reach what this one does not
        stderr.print(f"not all is checked here: {escape(error.message)}", soft_wrap=True)
    if dry_run:
        show_parts({"script": job.script()}, [job.script()], format_)
    else:
        show(submit(job), format_)


def validate_on_benchmark(
    penalties: list[str], config: Path | None, overrides: list[str], out: Path, cache: Path | None, format_: Format
) -> None:
    """Runs `saepipe validate --world`, or writes the world's tokens as a cache."""
    from saepipe.evaluate.validate.config import SynthBenchConfig
    from saepipe.evaluate.validate.synthbench_cache import cache_of_world
    from saepipe.evaluate.validate.synthbench_run import validate_synthbench
    from saepipe.evaluate.validate.synthbench_table import render_bench

    settings = SynthBenchConfig.load(config, overrides)
    if cache:
        with show_progress(format_) as progress:
            written = cache_of_world(settings, cache, progress=progress)
        show({"cache": str(cache), "fingerprint": written.fingerprint, "num_tokens": written.num_tokens}, format_)
        return
    with show_progress(format_) as progress:
        table = validate_synthbench(penalties, settings, out, progress=progress)
    if format_ == "json":
        stdout.print_json(table.to_json())
    elif format_ == "human":
        print_parts(render_bench(table))


def config_class(stage: Stage) -> type[Config]:
    """Returns the config class of a stage."""
    from saepipe.evaluate.config import EvaluateConfig
    from saepipe.evaluate.study.config import StudyConfig
    from saepipe.evaluate.validate.config import ValidateConfig
    from saepipe.harvest.config import HarvestConfig
    from saepipe.train.config import TrainConfig

    classes: dict[Stage, type[Config]] = {"harvest": HarvestConfig, "train": TrainConfig}
    classes |= {"evaluate": EvaluateConfig, "validate": ValidateConfig, "study": StudyConfig}
    return classes[stage]


def show_table(table: Table, format_: Format, *, seeds: bool = False, settings: bool = False) -> None:
    """Prints a comparison as JSON or as tables with their notes."""
    from saepipe.evaluate.compare.terminal import render

    if format_ == "json":
        stdout.print_json(table.to_json())
    elif format_ == "human":
        print_parts(render(table, fits, seeds=seeds, settings=settings))


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and returns its exit code; errors go to stderr, as JSON if that is the format."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        stdout.quiet = not Ranks.of_environment().is_first  # what several ranks have done is printed once
        with raising_on_signals():
            announce(arguments)
            code = int(app(args=arguments, standalone_mode=False, obj=arguments) or 0)
            if code == Interrupted.exit_code:  # typer's answer to KeyboardInterrupt
                raise KeyboardInterrupt
            return code
    except (Exception, KeyboardInterrupt, Stopped) as error:
        from saepipe.data.config.plugin_errors import plugin_mistake

        error = (without_progress() if isinstance(error, OutOfTime) else None) or error
        mistake = plugin_mistake(error) if isinstance(error, Exception) else None
        code, message, hint = explain(mistake or error)
        as_json = "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
        try:
            if code == 1:
                stderr.print_exception()
            print_error(code, message, hint, as_json=as_json)
            if isinstance(error, OutOfTime) and (sentence := requeue()):
                stderr.print(sentence, markup=False, highlight=False, soft_wrap=True)
        except MemoryError:  # what prints must be loaded first
            sys.stderr.write(f"error: {message}\n  hint: {hint}\n")
        return code
    finally:
        clear_notice()


if __name__ == "__main__":
    sys.exit(main())

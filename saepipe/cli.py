"""The command line: one function a command, heavy imports inside, so that `saepipe --help` answers at once.

stdout is data, stderr is talk. Exit codes: saepipe/data/errors.py, and 1 for a bug of ours, 130 for Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from saepipe.data.errors import ConfigError, CorruptDataError, MachineError, OutOfSpaceError, SaepipeError, Stopped
from saepipe.data.progress import Bar, Silent

if TYPE_CHECKING:
    from saepipe.evaluate.compare import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Harvest once, train many, evaluate honestly.")
cache_app = typer.Typer(no_args_is_help=True, help="Look at an activation cache.")
app.add_typer(cache_app, name="cache")

data = Console(width=None if sys.stdout.isatty() else 240)  # a pipe has no width of its own; a table needs one
talk = Console(stderr=True, soft_wrap=True)


class Format(StrEnum):
    human = "human"
    json = "json"
    quiet = "quiet"


class Library(StrEnum):
    saelens = "saelens"
    dictionary_learning = "dictionary_learning"
    gemma_scope = "gemma-scope"


class Resume(StrEnum):
    auto = "auto"
    never = "never"
    must = "must"


ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file; without one, the defaults.")]
Overrides = Annotated[list[str], typer.Option("--set", help="Overrides a key of the config: --set a.b=c.")]
FormatOption = Annotated[Format, typer.Option("--format", help="What stdout gets.")]
ResumeOption = Annotated[Resume, typer.Option("--resume", help="Go on with what is half-made: auto, never or must.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what it would cost.")]
Strict = Annotated[bool, typer.Option("--strict", help="An error of a health rule ends the run, with exit code 8.")]
Runs = Annotated[list[Path], typer.Argument(help="Run folders.")]


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("demo")) -> None:
    """Everything below on the embedded toy model: a cache, five SAEs, their metrics, and a table."""
    from saepipe.data.toy import CONFIGS
    from saepipe.evaluate.compare import compare as compare_runs
    from saepipe.evaluate.config import EvaluateConfig
    from saepipe.evaluate.run import evaluate as evaluate_runs
    from saepipe.harvest.config import HarvestConfig
    from saepipe.harvest.run import harvest as run_harvest
    from saepipe.train.config import TrainConfig
    from saepipe.train.run import train as run_train

    with watching(Format.human) as progress:
        cache = run_harvest(HarvestConfig.load(CONFIGS / "harvest.yaml"), out / "cache", progress=progress)
        training = TrainConfig.load(CONFIGS / "train.yaml", [f"cache={cache.path}"])
        runs = run_train(training, out / "runs", progress=progress)
        evaluate_runs(runs, EvaluateConfig(), progress=progress)
    show_table(compare_runs(runs, runs[0]), Format.human)
    talk.print(f"\ncache   {cache.path}\nruns    {out / 'runs'}\nconfigs {CONFIGS}")
    talk.print(f"next    python -c \"import saepipe; print(saepipe.load('{runs[0]}'))\"")


@app.command()
def harvest(
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006 - typer reads it once
    out: Annotated[Path, typer.Option(help="The cache's folder.")] = Path("cache"),
    dry_run: DryRun = False,
    resume: ResumeOption = Resume.auto,
    format_: FormatOption = Format.human,
) -> None:
    """Run the language model once over text and keep its residual activations."""
    from saepipe.harvest.config import HarvestConfig
    from saepipe.harvest.plan import plan
    from saepipe.harvest.run import harvest as run_harvest

    asked = HarvestConfig.load(config, set_)
    if dry_run:
        with watching(Format.quiet):
            planned = plan(asked, out)
        show(planned.to_dict(), format_)
        return
    with watching(format_) as progress:
        cache = run_harvest(asked, out, resume=resume.value, progress=progress)
    show({"cache": str(out), "fingerprint": cache.fingerprint, "num_tokens": cache.num_tokens}, format_)


@app.command()
def train(
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    cache: Annotated[Path | None, typer.Option(help="The cache's folder; overrides the config.")] = None,
    out: Annotated[Path, typer.Option(help="Runs go to OUT/<variant>/seed-<n>.")] = Path("runs"),
    dry_run: DryRun = False,
    resume: ResumeOption = Resume.auto,
    strict: Strict = False,
    format_: FormatOption = Format.human,
) -> None:
    """Train every variant of a config from one cache, in one pass."""
    from saepipe.train.config import TrainConfig
    from saepipe.train.plan import plan
    from saepipe.train.run import train as run_train

    asked = TrainConfig.load(config, [*set_, *([f"cache={cache}"] if cache else [])])
    if dry_run:
        show(plan(asked), format_)
        return
    with watching(format_) as progress:
        runs = run_train(asked, out, resume=resume.value, strict=strict, progress=progress)
    show({"runs": [str(run) for run in runs], "findings": findings_of(runs)}, format_)


@app.command()
def evaluate(
    runs: Runs,
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    baseline: Annotated[Path | None, typer.Option(help="The run that geometry compares the others with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results go here instead of RUN/eval.")] = None,
    dry_run: DryRun = False,
    format_: FormatOption = Format.human,
) -> None:
    """Measure runs on held-out text; runs of one cache share the model's passes."""
    from saepipe.evaluate.config import EvaluateConfig
    from saepipe.evaluate.results import told
    from saepipe.evaluate.run import evaluate as evaluate_runs
    from saepipe.evaluate.run import plan
    from saepipe.evaluate.testbed import Passes

    asked = EvaluateConfig.load(config, [*set_, *([f"baseline={baseline}"] if baseline else [])])
    if dry_run:
        show(plan(runs, asked, out=out), format_)
        return
    passes = Passes()
    with watching(format_) as progress:
        results = evaluate_runs(runs, asked, out=out, progress=progress, passes=passes)
    findings = [*findings_of(runs), *told(results)]
    show({"results": [str(path) for path in results], "findings": findings, "passes": str(passes)}, format_)


@app.command()
def compare(
    runs: Runs,
    baseline: Annotated[Path | None, typer.Option(help="The run that the others are compared with.")] = None,
    format_: FormatOption = Format.human,
) -> None:
    """One table: the config keys in which the runs differ, and their metrics."""
    from saepipe.evaluate.compare import compare as compare_runs

    show_table(compare_runs(runs, baseline), format_)


@app.command()
def validate(
    penalties: Annotated[list[str], typer.Argument(help="`ortsae`, `absorption/lift` or `all`.")],
    config: ConfigFile = None,
    set_: Overrides = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Keeps what was trained, for the next call.")] = Path("validation"),
    page: Annotated[Path | None, typer.Option(help="A Markdown page whose table is to be written anew.")] = None,
    format_: FormatOption = Format.human,
) -> None:
    """Does a penalty do what it claims? Trained on worlds with known features, beside a baseline and a placebo."""
    from saepipe.evaluate.validate.config import ValidateConfig
    from saepipe.evaluate.validate.run import validate as run_validation
    from saepipe.evaluate.validate.table import COLUMNS, lines, write_into

    asked = ValidateConfig.load(config, set_)
    with watching(format_) as progress:
        table = run_validation(penalties, asked, out, progress=progress)
    if page:
        write_into(page, table)
    if format_ is Format.json:
        data.print_json(table.to_json())
    elif format_ is Format.human:
        for title, rows in table.sections():
            drawn = RichTable(*COLUMNS, title=title, title_justify="left", box=SIMPLE_HEAD, header_style="bold")
            for line in lines(rows):
                drawn.add_row(*line)
            data.print(drawn)
        for note in table.notes:
            data.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="What the library wrote; only read.")],
    library: Annotated[Library, typer.Option("--from", help="The library that wrote it.")],
    cache: Annotated[Path, typer.Option(help="A cache of the model and hook that it was trained at.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    hook: Annotated[str | None, typer.Option(help="Where the source does not say: blocks.L.hook_resid_post.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the variant; without one, the source's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of its training, where the source does not say.")] = None,
    model: Annotated[str | None, typer.Option(help="The source's name for the cache's model, if another.")] = None,
    format_: FormatOption = Format.human,
) -> None:
    """Take an SAE from elsewhere as a run, to be evaluated and compared beside your own."""
    from saepipe.data.health import Health
    from saepipe.train.imported import import_sae
    from saepipe.train.load import open_run

    run = open_run(import_sae(path, library.value, cache, out, hook=hook, name=name, seed=seed, model=model))
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


@cache_app.command()
def info(cache: Path, format_: FormatOption = Format.human) -> None:
    """What a cache holds, and how large it is."""
    from saepipe.data.cache import Cache

    opened = Cache.open(cache)
    stored = {name: entry["bytes"] for name, entry in opened.files.items() if "acts/" in name or "int8/" in name}
    rows = opened.num_tokens + opened.attributes["num_heldout_contexts"] * opened.attributes["context_size"]
    raw = rows * opened.d_in * 2 * len(opened.hooks)
    sizes = {"raw_bytes": raw, "stored_bytes": sum(stored.values()), "ratio": round(raw / sum(stored.values()), 3)}
    show({"fingerprint": opened.fingerprint, **sizes, **opened.attributes}, format_)


@cache_app.command()
def verify(cache: Path, format_: FormatOption = Format.human) -> None:
    """Read every file of a cache and compare it with the manifest; exit code 4 if one differs."""
    from saepipe.data.artifact import damaged_files, open_committed

    _, lines = open_committed(cache, "cache")
    damage = list(damaged_files(cache, lines))
    show({"files": sum(len(line["files"]) for line in lines), "damaged": damage}, format_)
    if damage:
        raise CorruptDataError(f"{len(damage)} files of {cache} are damaged:\n  " + "\n  ".join(damage))


@app.command()
def doctor(format_: FormatOption = Format.human) -> None:
    """Versions, devices and disk, and whether the embedded model loads and runs here."""
    import shutil

    import torch

    from saepipe.data.artifact import provenance
    from saepipe.harvest.capture import capture
    from saepipe.harvest.hooks import HookPoint
    from saepipe.harvest.model import ModelConfig, load_model

    with watching(Format.quiet):
        lm = load_model(ModelConfig(device="cpu"))
    hook = HookPoint(lm.num_layers - 1, "resid_post")
    x = capture(lm.model, torch.tensor([[lm.bos_id, *lm.tokenizer("a first look")["input_ids"]]]), [hook])[str(hook)]
    if not torch.isfinite(x).all():
        raise MachineError("the embedded model gives NaN or Inf on this machine", hint="reinstall torch")
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = {"cpus": os.cpu_count(), "torch_threads": torch.get_num_threads(), "gpus": gpus or "none"}
    show({**provenance(), **found, "free_disk": shutil.disk_usage(".").free, "toy_runs": "yes"}, format_)


def findings_of(runs: Sequence[Path]) -> list[str]:
    """What the rules of health have to say of each run, a line each."""
    from saepipe.data.health import Health

    return [f"{run}: {finding}" for run in runs for finding in Health.read(run).findings]


def show(value: Mapping[str, Any], format_: Format) -> None:
    """Plain data on stdout: as JSON, or a line a key."""
    if format_ is Format.json:
        data.print_json(json.dumps(value))
    elif format_ is Format.human:
        for key, item in value.items():
            data.print(f"[bold]{key}[/]", end="  ")
            lines = (item or ["none"]) if isinstance(item, list) else [item]
            data.print("\n  ".join(map(_readable, lines)), markup=False)


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def show_table(table: Table, format_: Format) -> None:
    """A comparison on stdout: what the runs are, what was measured of them, and what the table does not show."""
    from saepipe.evaluate.drawn import drawn_changes, drawn_runs

    if format_ is Format.json:
        data.print_json(table.to_json())
    elif format_ is Format.human:
        wide = data.options.update(width=10_000)
        for part in drawn_runs(table, lambda drawn: data.measure(drawn, options=wide).maximum <= data.width):
            data.print(part)
        _tell(f"- {note}" for note in table.notes)
        for verdict in table.verdicts:
            _tell([str(verdict)])
            if verdict.may_judge:
                data.print(drawn_changes(verdict, table.short))


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        data.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watching(format_: Format) -> Iterator[Bar | Silent]:
    """Progress for one command; the libraries' own bars stay off."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    progress = Silent() if format_ is Format.quiet else Bar(talk)
    try:
        yield progress
    finally:
        progress.finish()


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and gives its exit code; errors go to stderr, as JSON where that is the format."""
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(app(args=arguments, standalone_mode=False) or 0)
    except (Exception, KeyboardInterrupt) as error:
        code, message, hint = _explain(error)
        if "--format=json" in arguments or ("--format", "json") in pairwise(arguments):
            print(json.dumps({"error": message, "hint": hint, "exit_code": code}), file=sys.stderr)
        else:
            talk.print(f"error: {message}", markup=False, highlight=False)
            talk.print(f"  hint: {hint}" if hint else "", end="\n" if hint else "", markup=False, highlight=False)
        return code


def _stop(*_: object) -> None:
    raise Stopped("stopped by SIGTERM", hint="run the same command again to go on")


def _explain(error: BaseException) -> tuple[int, str, str | None]:
    """Exit code, what is wrong, and what would do; a bug of ours leaves its traceback on stderr."""
    again = "run the same command again to go on"
    if isinstance(error, SaepipeError):
        return error.exit_code, error.message, error.hint
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped", again
    if hasattr(error, "format_message"):  # how typer tells of wrong usage
        return ConfigError.exit_code, error.format_message(), "saepipe COMMAND --help"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfSpaceError.exit_code, f"out of memory: {error}", "a smaller batch_size"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError.exit_code, str(error), f"free some disk, then {again}"
    talk.print_exception()
    return 1, f"a bug in saepipe: {type(error).__name__}: {error}", "please report it with the lines above"


if __name__ == "__main__":
    sys.exit(main())

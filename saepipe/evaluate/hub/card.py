"""The model card: what speaks against the runs, what they are, how they did, how to load them, where they come from.

Everything in it is read from the runs. What nobody knows is called unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from saepipe.data.folders.health import RULES
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.facts import Facts, Source
from saepipe.evaluate.hub.section import grid, section
from saepipe.evaluate.results.figures import SHORT, catalogue

LICENCE = (
    "The weights of an SAE are computed from a model's activations: the base model's licence may bind what is done "
    "with them (the Gemma Terms of Use do, for one), and so may the dataset's."
)


def card(runs: Sequence[tuple[Facts, Address]], licence: str | None = None) -> str:
    """README.md of one or several runs: front matter, findings of health, a table of several, a section each.

    Args:
        runs: what is known of each, and where it will lie.
        licence: of the SAEs, as the hub calls it (`mit`); their author's to choose.
    """
    facts = [known for known, _ in runs]
    parts = [_title(facts), *_findings(facts), *(_table(facts) if len(facts) > 1 else ())]
    parts += [paragraph for known, address in runs for paragraph in section(known, address)]
    parts += ["## Licence", *_licence(facts, licence)]
    return str(ModelCard(f"---\n{_front(facts, licence).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def said(known: Facts, severity: str) -> list[str]:
    """The findings of a run and its evaluations, in words; what its results say against themselves is a warning."""
    told = [
        f"{RULES[finding.rule]} ({finding.rule}): {finding.message}"
        for finding in known.row.findings
        if finding.severity == severity
    ]
    told += known.row.warnings if severity == "warning" else ()
    return _unique(f"{known.label}: {' '.join(line.split())}" for line in told)


def _front(facts: Sequence[Facts], licence: str | None) -> ModelCardData:
    """Only hub ids of which a commit is known are named: the hub links them, and refuses what is none."""
    models = _unique(known.model.name for known in facts if known.model.on_hub)
    datasets = _unique(known.dataset.name for known in facts if known.dataset.on_hub)
    results = list(_results(facts[0])) if len(facts) == 1 else []  # the index is of one model
    return ModelCardData(
        library_name="saelens",
        tags=["saepipe", "sparse-autoencoder"],
        base_model=models or None,
        datasets=datasets or None,
        license=licence,
        model_name=facts[0].label if results else None,
        eval_results=results or None,
    )


def _results(known: Facts) -> Iterator[EvalResult]:
    """The figures that tables show, for the hub's own index, which has no place for intervals."""
    shown, dataset = catalogue(), known.dataset.name or "unknown"
    for key in SHORT:
        value = known.row.value(key)
        if value is not None:
            yield EvalResult(
                task_type="feature-extraction",
                task_name="sparse autoencoder",
                dataset_type=dataset,
                dataset_name=f"held-out part of {dataset}",
                dataset_revision=known.dataset.revision,
                metric_type=key,
                metric_name=shown[key].label,
                metric_value=value,
            )


def _title(facts: Sequence[Facts]) -> str:
    models, hooks = _unique(known.model.name for known in facts), _unique(known.run.hook for known in facts)
    what = "A sparse autoencoder" if len(facts) == 1 else f"{len(facts)} sparse autoencoders"
    return f"# {what} of {' and '.join(models) or 'an unknown model'} at {', '.join(hooks)}"


def _findings(facts: Sequence[Facts]) -> Iterator[str]:
    """Errors in a box of their own, first of all."""
    for severity, box, head in (
        ("error", "CAUTION", "**What cannot show what it was made to show:**"),
        ("warning", "WARNING", "**To be kept in mind:**"),
    ):
        lines = [f"- {line}" for known in facts for line in said(known, severity)]
        if lines:
            yield "\n".join(f"> {line}".rstrip() for line in (f"[!{box}]", head, "", *lines))
    if unseen := [known.label for known in facts if not known.run.trained]:
        yield f"Imported, so that no rule of health has seen their training: {', '.join(unseen)}."


def _table(facts: Sequence[Facts]) -> Iterator[str]:
    """All runs side by side, as `saepipe compare` shows them, and what it says besides the findings above."""
    table = compare([known.run.path for known in facts])
    first = len(table.columns) - len(table.figures)
    kept = [*range(first), *(first + n for n, key in enumerate(table.figures) if key in table.short)]
    above = {f"{known.label}: {finding}" for known in facts for finding in known.row.findings}
    yield "## All runs"
    yield grid([table.columns[n] for n in kept], [[str(row[n]) for n in kept] for row in table.rows])
    yield "\n".join(f"- {note}" for note in table.notes if note not in above)


def _licence(facts: Sequence[Facts], licence: str | None) -> Iterator[str]:
    yield f"The SAE's own: `{licence}`." if licence else "Its author has not said under which licence the SAE is."
    yield LICENCE
    models = [_link(known.model, "") for known in facts]
    datasets = [_link(known.dataset, "datasets/") for known in facts]
    if links := _unique([*models, *datasets]):
        yield f"Theirs: {', '.join(links)}."
    if imported := _unique(known.run.settings["imported"] for known in facts if not known.run.trained):
        yield f"Trained by others, whose licence holds: {', '.join(imported)}."


def _link(source: Source, kind: str) -> str | None:
    return f"[{source.name}](https://huggingface.co/{kind}{source.name})" if source.on_hub else None


def _unique(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))

"""Model card of runs: findings, description, figures, how to load them, provenance and licences.

All of it is read from the runs; what they do not say is given as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.facts import Facts, Source
from saepipe.evaluate.hub.section import grid, section
from saepipe.evaluate.results.figures import SHORT, catalogue

LICENCE = (
    "The weights of an SAE are computed from a model's activations, so the licence of the base model may restrict how "
    "they may be used (the Gemma Terms of Use do), and so may that of the dataset."
)


def card(runs: Sequence[tuple[Facts, Address]], licence: str | None = None) -> str:
    """Returns README.md: front matter, health findings, a table if there are several runs, and a section per run.

    Args:
        runs: facts and address of each run.
        licence: the hub's id of the SAEs' licence (`mit`), chosen by their author.
    """
    all_facts = [facts for facts, _ in runs]
    parts = [_title(all_facts), *_findings(all_facts), *(_table(all_facts) if len(all_facts) > 1 else ())]
    parts += [paragraph for facts, address in runs for paragraph in section(facts, address)]
    parts += ["## Licence", *_licence(all_facts, licence)]
    return str(ModelCard(f"---\n{_front(all_facts, licence).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def finding_lines(facts: Facts, severity: str) -> list[str]:
    """Returns the findings of a run and its evaluations as sentences; warnings of its results count as warnings."""
    lines = [
        f"{RULES[finding.rule].title} ({finding.rule}): {finding.message}"
        for finding in facts.row.findings
        if finding.severity == severity
    ]
    lines += facts.row.warnings if severity == "warning" else ()
    return _unique(f"{facts.label}: {' '.join(line.split())}" for line in lines)


def _front(all_facts: Sequence[Facts], licence: str | None) -> ModelCardData:
    """Returns the front matter. It has only hub ids with a known commit, since the hub rejects unknown ids."""
    models = _unique(facts.model.name for facts in all_facts if facts.model.on_hub)
    datasets = _unique(facts.dataset.name for facts in all_facts if facts.dataset.on_hub)
    results = list(_results(all_facts[0])) if len(all_facts) == 1 else []  # the index has one model per card
    return ModelCardData(
        library_name="saelens",
        tags=["saepipe", "sparse-autoencoder"],
        base_model=models or None,
        datasets=datasets or None,
        license=licence,
        model_name=all_facts[0].label if results else None,
        eval_results=results or None,
    )


def _results(facts: Facts) -> Iterator[EvalResult]:
    """Yields the short list of figures for the hub's index, which cannot hold intervals."""
    shown, dataset = catalogue(), facts.dataset.name or "unknown"
    for key in SHORT:
        value = facts.row.value(key)
        if value is not None:
            yield EvalResult(
                task_type="feature-extraction",
                task_name="sparse autoencoder",
                dataset_type=dataset,
                dataset_name=f"held-out part of {dataset}",
                dataset_revision=facts.dataset.revision,
                metric_type=key,
                metric_name=shown[key].label,
                metric_value=value,
            )


def _title(all_facts: Sequence[Facts]) -> str:
    models = _unique(facts.model.name for facts in all_facts)
    hooks = _unique(facts.run.sites for facts in all_facts)
    saes = "Sparse autoencoder" if len(all_facts) == 1 else f"{len(all_facts)} sparse autoencoders"
    return f"# {saes} for {' and '.join(models) or 'an unknown model'} at {', '.join(hooks)}"


def _findings(all_facts: Sequence[Facts]) -> Iterator[str]:
    """Yields the errors, then the warnings, each in a box of its own."""
    for severity, box, head in (
        ("error", "CAUTION", "**Errors: the results concerned do not support any conclusion.**"),
        ("warning", "WARNING", "**Warnings**"),
    ):
        lines = [f"- {line}" for facts in all_facts for line in finding_lines(facts, severity)]
        if lines:
            yield "\n".join(f"> {line}".rstrip() for line in (f"[!{box}]", head, "", *lines))
    if unchecked := [facts.label for facts in all_facts if not facts.run.trained]:
        yield f"Imported, so no health rule checked their training: {', '.join(unchecked)}."


def _table(all_facts: Sequence[Facts]) -> Iterator[str]:
    """Yields the table of `saepipe compare` and its notes, without the findings of runs, which are above."""
    table = compare([facts.run.path for facts in all_facts])
    short = table.short_columns
    yield "## All runs"
    yield grid([table.columns[index] for index in short], [[str(row[index]) for index in short] for row in table.rows])
    yield "\n".join(f"- {note}" for note in table.notes if note.finding is None or not note.runs)


def _licence(all_facts: Sequence[Facts], licence: str | None) -> Iterator[str]:
    yield f"Licence of the SAE: `{licence}`." if licence else "The author has not stated a licence for the SAE."
    yield LICENCE
    models = [_link(facts.model, "") for facts in all_facts]
    datasets = [_link(facts.dataset, "datasets/") for facts in all_facts]
    if links := _unique([*models, *datasets]):
        yield f"Base model and dataset: {', '.join(links)}."
    if imported := _unique(facts.run.settings["imported"] for facts in all_facts if not facts.run.trained):
        yield f"Trained by others, under their licence: {', '.join(imported)}."


def _link(source: Source, kind: str) -> str | None:
    return f"[{source.name}](https://huggingface.co/{kind}{source.name})" if source.on_hub else None


def _unique(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))

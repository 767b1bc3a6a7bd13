"""Section of a card about one run, in Markdown: description, figures, how to load it, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saepipe.data.config.base import flatten
from saepipe.data.config.component import Component
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.facts import Facts, description_and_formula, settings_of
from saepipe.evaluate.results.figures import catalogue
from saepipe.train.formats import saelens
from saepipe.train.rundir import run_files
from saepipe.train.rundir.import_config import ImportConfig

INTERVALS = (
    "Intervals are 95 % intervals of evaluation noise: how a figure would change with other documents, examples or "
    "words. They do not cover the variation between training seeds."
)


def section(facts: Facts, address: Address) -> Iterator[str]:
    """Yields paragraphs about the run at `address`."""
    yield f"## {facts.label}"
    yield _description(facts)
    yield "\n".join(_training(facts))
    yield "### Figures"
    yield from _figures(facts)
    yield "### Use"
    yield from _use(facts, address)
    yield "### Provenance"
    yield "\n".join(_provenance(facts))


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _description(facts: Facts) -> str:
    run, context = facts.run, facts.cfg.get("metadata", {}).get("context_size")
    rows = [
        ("base model", str(facts.model)),
        ("hook", f"`{run.sites}`"),
        ("dataset", str(facts.dataset)),
        ("context", f"{context} tokens" if context else "unknown"),
        ("training", f"{facts.num_tokens:,} tokens" if facts.num_tokens else "unknown number of tokens"),
        ("d_in, d_sae", f"{facts.cfg['d_in']}, {facts.cfg['d_sae']}"),
        ("seeds", f"{run.seed}; data order {run.data_seed}" if run.trained else "unknown"),
    ]
    return grid(["", ""], rows)


def _training(facts: Facts) -> Iterator[str]:
    yield "### Architecture and loss"
    yield ""
    yield f"- {_component(facts.architecture.name, facts.architecture)}"
    trained = facts.run.config
    if isinstance(trained, ImportConfig):
        yield "- training settings unknown"
        return
    yield f"- `{trained.reconstruction}` reconstruction error, activations scaled by `{trained.activation_scale}`"
    for label, component in trained.components():
        yield f"- {component.family} {_component(label, component)}"
    if trained.plugin_sources:
        each = ", ".join(f"`{name}.py` (SHA-256 {digest}...)" for name, digest in trained.plugin_sources.items())
        yield f"- code of the author, not included here: {each}"


def _component(label: str, component: Component) -> str:
    """Describes a component by its docstrings; double backticks, since a formula may contain single ones."""
    description, formula = description_and_formula(component)
    parts = [
        f"`{label}`: {description}" if description else f"`{label}`",
        f"`` {formula} ``" if formula else "",
        settings_of(component),
    ]
    return " ".join(part for part in parts if part)


def _figures(facts: Facts) -> Iterator[str]:
    shown, cells = catalogue(), facts.row.cells
    if not cells:
        yield "It was not evaluated."
        return
    rows = []
    for key in (key for key in shown if key in cells):
        cell, interval = cells[key], "-"
        if cell.low is not None and cell.high is not None:
            interval = f"{cell.low:.4g} to {cell.high:.4g}"
        value = f"{cell.value:.4g}" if cell.value is not None else f"undefined: {cell.why}"
        rows.append((shown[key].label, value, interval))
    yield grid(["figure", "value", "95 % interval"], rows)
    tokens = f" On {facts.row.heldout[1]:,} held-out tokens." if facts.row.heldout else ""
    yield f"{INTERVALS}{tokens} All figures are in `eval/*.json`."
    protocols = [
        f"- `{name}`: "
        + ", ".join(f"{key} {value}" for key, value in flatten({k: protocol[k] for k in protocol if k != "model"}))
        for name, protocol in facts.row.protocols.items()
    ]
    yield "\n".join(["<details><summary>Evaluation settings</summary>\n", *protocols, "\n</details>"])


def _use(facts: Facts, address: Address) -> Iterator[str]:
    sae = f"{address.folder}/{run_files.SAE}"
    if address.revision in (None, "main"):
        theirs = f'from sae_lens import SAE\n\nsae = SAE.from_pretrained(release="{address.repo}", sae_id="{sae}")'
    else:  # SAELens takes no revision
        theirs = (
            "from huggingface_hub import snapshot_download\nfrom sae_lens import SAE\n\n"
            f'folder = snapshot_download("{address.repo}", revision="{address.revision}", allow_patterns="{sae}/*")\n'
            f'sae = SAE.load_from_disk(f"{{folder}}/{sae}")'
        )
    if facts.cfg["architecture"] in saelens.CLASSES:
        yield f"In SAELens:\n\n```python\n{theirs}\n```"
    yield f"In saepipe, as a run:\n\n```bash\nsaepipe pull {address} --out {facts.label}\n```"
    yield f'```python\nimport saepipe as sp\n\nsae = sp.load("{facts.label}")\n```'
    read, target = f"`{facts.run.hook}`, `(..., {facts.cfg['d_in']})`", facts.run.target
    usage = f"It maps raw activations at {read}, to reconstructions of them."
    if target:
        usage = f"It maps raw activations at {read}, to those at `{target}`, `(..., {facts.cfg['d_out']})`."
    special = facts.cfg.get("metadata", {}).get("exclude_special_tokens")
    yield f"{usage} It was not trained on BOS and other special tokens." if special else usage


def _provenance(facts: Facts) -> Iterator[str]:
    """Yields the chain from the run down to the model and the dataset."""
    run, by = facts.run, facts.header.get("provenance") or facts.header.get("imported_by") or {}
    versions = ", ".join(f"{name} {version}" for name, version in by.items() if name != "commit")
    harvested = (facts.cached or {}).get("versions", {}).get("commit", "unknown")
    source = f"by saepipe at commit {by.get('commit', 'unknown')}; {versions or 'versions unknown'}"
    yield f"- run `{run.fingerprint}` (config `{run.run_id}`), {source}"
    yield f"- cache `{run.cache_fingerprint}`, harvested at commit {harvested}"
    yield f"- model {facts.model}; weights xxh3 `{facts.weights or 'unknown'}`"
    yield f"- dataset {facts.dataset}"

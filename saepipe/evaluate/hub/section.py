"""What a card says of one run: what it is, how it did, how to load it, where it comes from; in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from saepipe.data.config.base import flatten
from saepipe.data.config.component import Component
from saepipe.evaluate.hub.address import Address
from saepipe.evaluate.hub.facts import Facts, explained, settings_of
from saepipe.evaluate.results.figures import catalogue
from saepipe.train.rundir import folder

INTERVALS = (
    "Intervals are of 95 % and of evaluation noise only: how a figure would move with other documents, examples or "
    "words. They say nothing of how another training seed would come out."
)


def section(known: Facts, address: Address) -> Iterator[str]:
    """Paragraphs. `address` is the run's own."""
    yield f"## {known.label}"
    yield _what(known)
    yield "\n".join(_training(known))
    yield "### Figures"
    yield from _figures(known)
    yield "### Use"
    yield from _use(known, address)
    yield "### Where it comes from"
    yield "\n".join(_provenance(known))


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _what(known: Facts) -> str:
    run, context = known.run, known.cfg.get("metadata", {}).get("context_size")
    rows = [
        ("base model", str(known.model)),
        ("hook", f"`{run.hook}`"),
        ("dataset", str(known.dataset)),
        ("context", f"{context} tokens" if context else "unknown"),
        ("training", f"{known.num_tokens:,} tokens" if known.num_tokens else "unknown number of tokens"),
        ("d_in, d_sae", f"{known.cfg['d_in']}, {known.cfg['d_sae']}"),
        ("seeds", f"{run.seed}; order of the data {run.data_seed}" if run.trained else "unknown"),
    ]
    return grid(["", ""], rows)


def _training(known: Facts) -> Iterator[str]:
    yield "### Architecture and loss"
    yield ""
    yield f"- {_described(known.architecture.name, known.architecture)}"
    trained = known.run.trained
    if trained is None:
        yield "- how it was trained is not known here"
        return
    yield f"- `{trained.reconstruction}` reconstruction error, activations scaled by `{trained.activation_scale}`"
    for label, component in trained.components():
        yield f"- {component.family} {_described(label, component)}"
    if trained.plugin_sources:
        each = ", ".join(f"`{name}.py` (SHA-256 {digest}...)" for name, digest in trained.plugin_sources.items())
        yield f"- its author's own code, which is not here: {each}"


def _described(label: str, component: Component) -> str:
    """In the words of its file; double backticks, since a formula's words may have single ones."""
    what, formula = explained(component)
    parts = [
        f"`{label}`: {what}" if what else f"`{label}`",
        f"`` {formula} ``" if formula else "",
        settings_of(component),
    ]
    return " ".join(part for part in parts if part)


def _figures(known: Facts) -> Iterator[str]:
    shown, cells = catalogue(), known.row.cells
    if not cells:
        yield "It was not evaluated."
        return
    rows = []
    for key in (key for key in shown if key in cells):
        cell, interval = cells[key], "-"
        if cell.low is not None and cell.high is not None:
            interval = f"{cell.low:.4g} to {cell.high:.4g}"
        value = f"{cell.value:.4g}" if cell.value is not None else f"none: {cell.why}"
        rows.append((shown[key].label, value, interval))
    yield grid(["figure", "value", "95 % interval"], rows)
    tokens = f" On {known.row.heldout[1]:,} held-out tokens." if known.row.heldout else ""
    yield f"{INTERVALS}{tokens} All figures are in `eval/*.json`."
    made = [
        f"- `{name}`: "
        + ", ".join(f"{key} {value}" for key, value in flatten({k: how[k] for k in how if k != "model"}))
        for name, how in known.row.made.items()
    ]
    yield "\n".join(["<details><summary>How it was evaluated</summary>\n", *made, "\n</details>"])


def _use(known: Facts, address: Address) -> Iterator[str]:
    sae = f"{address.folder}/{folder.SAE}"
    if address.revision in (None, "main"):
        theirs = f'from sae_lens import SAE\n\nsae = SAE.from_pretrained(release="{address.repo}", sae_id="{sae}")'
    else:  # SAELens asks for no revision
        theirs = (
            "from huggingface_hub import snapshot_download\nfrom sae_lens import SAE\n\n"
            f'folder = snapshot_download("{address.repo}", revision="{address.revision}", allow_patterns="{sae}/*")\n'
            f'sae = SAE.load_from_disk(f"{{folder}}/{sae}")'
        )
    yield f"In SAELens:\n\n```python\n{theirs}\n```"
    yield f"In saepipe, as the run that it is:\n\n```bash\nsaepipe pull {address} --out {known.label}\n```"
    yield f'```python\nimport saepipe as sp\n\nsae = sp.load("{known.label}")\n```'
    taken = f"It takes raw activations at `{known.run.hook}`, `(..., {known.cfg['d_in']})`, and gives back the like."
    special = known.cfg.get("metadata", {}).get("exclude_special_tokens")
    yield f"{taken} It was not trained on BOS and other special tokens." if special else taken


def _provenance(known: Facts) -> Iterator[str]:
    """The chain from the run down to the model and the text."""
    run, by = known.run, known.header.get("provenance") or known.header.get("imported_by") or {}
    versions = ", ".join(f"{name} {version}" for name, version in by.items() if name != "commit")
    harvested = (known.cached or {}).get("versions", {}).get("commit", "unknown")
    made = f"by saepipe at commit {by.get('commit', 'unknown')}; {versions or 'versions unknown'}"
    yield f"- run `{run.fingerprint}` (config `{run.run_id}`), {made}"
    yield f"- from cache `{run.cache_fingerprint}`, harvested at commit {harvested}"
    yield f"- of the model {known.model}; weights xxh3 `{known.weights or 'unknown'}`"
    yield f"- on the dataset {known.dataset}"

"""Calls that could run code from a file, or from text, appear nowhere in the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import saepipe

PACKAGE = Path(saepipe.__file__).parent
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.load_all"}
CALLS |= {f"yaml.{kind}_load{many}" for kind in ("unsafe", "full") for many in ("", "_all")}
TRUST = ("False", "config.trust_remote_code", "trust_remote_code")
"""Values by which a model's own code is run only where a user's config or command line says so."""
LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader"}


def dangers(source: str) -> Iterator[str]:
    """Yields each dangerous import or call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & {*CALLS, "torch.load", "numpy.load"}
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {f"yaml.{loader}" for loader in LOADERS}:
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from dangers_of_call(ast.unparse(node.func), {word.arg: word.value for word in node.keywords})


def dangers_of_call(name: str, words: dict[str | None, ast.expr]) -> Iterator[str]:
    def is_constant(word: str, value: bool) -> bool:
        return isinstance(given := words.get(word), ast.Constant) and given.value is value

    if name in CALLS or name.endswith(".load_dill"):
        yield name
    if name in ("torch.load", "torch.jit.load") and not is_constant("weights_only", True):
        yield f"{name} without weights_only=True"
    if name in ("np.load", "numpy.load") and not is_constant("allow_pickle", False):
        yield f"{name} without allow_pickle=False"
    if name not in ("np.load", "numpy.load") and "allow_pickle" in words and not is_constant("allow_pickle", False):
        yield f"{name} with allow_pickle"
    if "trust_remote_code" in words and ast.unparse(words["trust_remote_code"]) not in TRUST:
        yield f"{name} with trust_remote_code"
    if "shell" in words and not is_constant("shell", False):
        yield f"{name} with a shell"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_file_has_a_dangerous_call(path: Path) -> None:
    assert list(dangers(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import dill as d",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "from torch import load",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.savez(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.compose(text, Loader=yaml.UnsafeLoader)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_scan_sees_it(source: str) -> None:
    assert len(list(dangers(source))) == 1


def test_the_scan_allows_what_runs_no_code() -> None:
    source = (
        "torch.load(path, weights_only=True); np.load(path, allow_pickle=False); yaml.safe_load(text); re.compile(x)"
    )
    assert list(dangers(source)) == []

"""Help of the command line: descriptions, examples that parse, completion."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from saepipe.cli import app, main

ROOT = typer.main.get_command(app)


def commands(group: object = ROOT, path: str = "") -> Iterator[tuple[str, object]]:
    """Yields every command with its full name, such as `cache verify`."""
    for name, command in getattr(group, "commands", {}).items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield path + name, command


COMMANDS = dict(commands())
EXAMPLES = [
    (name, line.replace("\\[", "[").strip())
    for name, command in COMMANDS.items()
    for line in command.epilog.split("\n\n")[1:]
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_description_and_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert COMMANDS[name].help.split(",")[0].split()[0] in printed
    assert "Examples:" in printed
    assert f"saepipe {name}" in printed


@pytest.mark.parametrize(("name", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_parses(name: str, line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])
    assert words[: 1 + len(name.split())] == ["saepipe", *name.split()]
    context = COMMANDS[name].make_context(name, words[1 + len(name.split()) :])  # raises for wrong usage
    assert context.params


def complete(*words: str) -> list[str]:
    """Returns the completions that bash offers for the last word."""
    environment = {
        "_SAEPIPE_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": f"{len(words) - 1}",
    }
    code = "import sys; from saepipe.cli import main; sys.argv[0] = 'saepipe'; sys.exit(main([]))"
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return process.stdout.split()


def test_a_shell_completes_commands_and_choices() -> None:
    assert complete("saepipe", "har") == ["harvest"]
    assert complete("saepipe", "cache", "v") == ["verify"]
    assert complete("saepipe", "export", "run", "--to", "s") == ["saelens", "sparsify"]

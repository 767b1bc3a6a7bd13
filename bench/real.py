"""Writes the table and the pictures of docs/real.md from a finished `saepipe demo --real`.

saepipe demo --real --out real
python bench/real.py real
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pictures import open_browser, picture

import saepipe as sp
from saepipe.evaluate.browse.run import browse

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "real.md"
MARKERS = ("<!-- compare -->\n", "<!-- /compare -->\n")
SHOWN = """\
![First screen of the report](pictures/real-report.png)

![Latent of a letter in the feature browser](pictures/real-browser.png)
"""


def main() -> None:
    study = Path(sys.argv[1])
    runs = [study / "runs" / variant / f"seed-{n}" for variant in ("baseline", "ortsae", "placebo") for n in range(3)]
    before, rest = PAGE.read_text().split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    PAGE.write_text(before + MARKERS[0] + f"```text\n{compared(runs)}```\n\n{SHOWN}" + MARKERS[1] + after)
    with open_browser() as browser, tempfile.TemporaryDirectory() as folder:
        sp.report(runs, Path(folder) / "report.html", baseline=runs[0])
        picture(browser, f"file://{folder}/report.html", "real-report")
        letter = best_letter(runs[0])
        browse(runs[::3], static=Path(folder) / "site")
        latent = letter["split_latents"][0]
        picture(browser, f"file://{folder}/site/index.html#run=baseline/seed-0&latent={latent}", "real-browser")
    print(f"the browser shows latent {latent}, of the letter {letter['first_letter']}")


def compared(runs: list[Path]) -> str:
    """Returns the screen of `saepipe compare` at 80 columns."""
    command = [sys.executable, "-m", "saepipe.cli", "compare", *map(str, runs), "--baseline", str(runs[0])]
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1"}
    screen = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return "".join(f"{line.rstrip()}\n" for line in screen.splitlines())


def best_letter(run: Path) -> dict[str, Any]:
    """Returns the letter whose own latents detect its test words best."""
    letters = json.loads((run / "eval" / "absorption.json").read_text())["saepipe"]["letters"]
    measurable = [letter for letter in letters if letter["not_measurable"] is None]
    best: dict[str, Any] = max(measurable, key=lambda letter: float(letter["f1_split_test"]))
    return best


if __name__ == "__main__":
    main()

"""Counts of latents by role."""

from __future__ import annotations

from pathlib import Path

from helpers.charts import run, table
from helpers.made_stories import write_absorption, write_probing
from saepipe.evaluate.report.charts import latent_roles
from saepipe.evaluate.report.story import Story


def test_a_latent_counts_once_per_role(tmp_path: Path) -> None:
    a = write_probing(write_absorption(run(tmp_path, "a"), {"a": (2, 10), "i": (0, 10)}), 0.8)
    story = Story.read([a, write_probing(run(tmp_path, "b", weight=2.0), 0.8)])
    assert latent_roles.by_role(story.roles["a/seed-0"]) == {
        "detects a first letter": [1],  # of both letters
        "absorbs a first letter": [7],
        "indicates a class": [1, 2, 3, 4],  # two of them for both classes
    }
    (chart,) = latent_roles.section(story).charts
    assert [(row["variant"], row["role"], row["latents"]) for row in table(chart)] == [
        ("a", "detects a first letter", 1.0),
        ("b", "detects a first letter", 0.0),
        ("a", "absorbs a first letter", 1.0),
        ("b", "absorbs a first letter", 0.0),
        ("a", "indicates a class", 4.0),
        ("b", "indicates a class", 4.0),
        ("a", "two or more of these", 1.0),
        ("b", "two or more of these", 0.0),
    ]


def test_runs_without_roles_are_named(tmp_path: Path) -> None:
    a, b = write_probing(run(tmp_path, "a"), 0.8), run(tmp_path, "b", weight=2.0)
    section = latent_roles.section(Story.read([a, b]))
    assert section.absent == ("No roles in b/seed-0.",)
    assert {row["variant"] for row in table(section.charts[0])} == {"a"}
    assert latent_roles.section(Story.read([b])).charts == ()

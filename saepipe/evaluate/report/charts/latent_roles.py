"""Number of latents that have a role in the evaluations, by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saepipe.evaluate.compare.variant_means import Variant, mean
from saepipe.evaluate.features.roles import Role
from saepipe.evaluate.report.chart import Section
from saepipe.evaluate.report.charts.dots import Dot, dots
from saepipe.evaluate.report.story import Story
from saepipe.evaluate.results.run_results import Cell

ROLES = {
    ("absorption", "split"): "detects a first letter",
    ("absorption", "absorbs"): "absorbs a first letter",
    ("sparse_probing", "probe"): "indicates a class",
    ("tpp", "off"): "ranked by TPP",
    ("scr", "off"): "ranked by SCR",
    ("autointerp", "explained"): "has an explanation",
    ("delphi", "explained"): "has one by delphi",
}
"""Names of the roles, by evaluation and kind."""
_SEVERAL = "two or more of these"
_TEXT = (
    "Number of latents that each evaluation gives a role, by variant, mean over seeds. A latent counts once per role, "
    "however many letters or classes it has it for: fewer latents for as many classes means that they are shared."
)


def section(story: Story) -> Section:
    """Returns the section, with one chart if any evaluation gives roles."""
    names = dict.fromkeys(name for latents in story.roles.values() for name in by_role(latents))
    if not names:
        return Section("roles", "Roles of latents", "", (), ("No evaluation gives a latent a role.",))
    ordered = [*(name for name in ROLES.values() if name in names), *([_SEVERAL] if len(names) > 1 else [])]
    points = [dot for name in ordered for variant in story.variants if (dot := _dot(story, variant, name))]
    chart = dots("roles-counts", "Latents by role", _TEXT, story, points, ("role", "latents"))
    missing = [row.label for row in story.rows if not story.roles[row.label]]
    return Section("roles", "Roles of latents", "", (chart,), tuple(f"No roles in {label}." for label in missing))


def by_role(latents: Mapping[int, Sequence[Role]]) -> dict[str, list[int]]:
    """Returns the latents of one run by the name of their role, ascending; a latent may have several."""
    names = [(name, latent) for latent in sorted(latents) for name in _names(latents[latent])]
    return {name: [latent for other, latent in names if other == name] for name in dict.fromkeys(n for n, _ in names)}


def _names(roles: Sequence[Role]) -> dict[str, None]:
    return dict.fromkeys(ROLES[role.metric, role.kind] for role in roles)


def _dot(story: Story, variant: Variant, name: str) -> Dot | None:
    """Returns the mean count over the seeds with roles; None if there are none."""
    seeds = [story.roles[row.label] for row in variant.rows if story.roles[row.label]]
    counts = [
        sum(len(_names(roles)) > 1 if name == _SEVERAL else name in _names(roles) for roles in latents.values())
        for latents in seeds
    ]
    return Dot(name, variant.name, mean([Cell(float(count)) for count in counts])) if counts else None

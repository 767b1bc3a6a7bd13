"""The page as text: its order, one file that depends on its inputs alone, names that cannot act."""

from __future__ import annotations

import html.parser
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.data.errors import ConfigError, CorruptDataError, MachineError
from saepipe.data.folders.health import Finding
from saepipe.data.folders.health_rules import RULES
from saepipe.evaluate.report.chart import anchor
from saepipe.evaluate.report.page import Page, javascript, number, render
from saepipe.evaluate.report.run import report

RUN = [anchor(f"l1={index}/seed-0") for index in range(4)]
ERROR = Finding("H9", "error", "all latents are dead: a smaller weight would do")
WARNING = Finding("H1", "warning", "l1 never had a gradient: give it a weight", "l1")
ATTACK = "<script>alert(1)<!--</script><img src=x onerror=alert(2)>\"'</style>"
LOADING = {"src", "srcset", "poster", "data", "action", "background"}

Maker = Callable[..., Page]


class Parsed(html.parser.HTMLParser):
    """The page as a browser parses it: elements, words, and chart specs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.specs: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = "spec" if dict(attrs).get("class") == "spec" else tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "spec":
            self.specs.append(data)
        elif self._inside not in ("script", "style"):
            self.words += data


def test_conclusions_come_first_then_results_findings_charts_runs_and_provenance(make_page: Maker) -> None:
    text = render(make_page(findings=(WARNING, ERROR)))
    marks = ["<h1>Penalties", "Some runs of one cache.", "There is no verdict yet.", "The rules found nothing."]
    marks += ['id="pareto"', 'id="pareto-ev"', 'id="health"', ERROR.message, WARNING.message]
    marks += ['id="comparison"', "±1", 'id="training"', "No absorption: it was not evaluated."]
    marks += [
        f'id="{RUN[0]}"',
        f'id="{RUN[3]}"',
        'id="differences"',
        'id="provenance"',
        "Written by saepipe",
    ]
    positions = [text.index(mark) for mark in marks]
    assert positions == sorted(positions)


def test_a_finding_is_shown_once_per_variant_with_links_to_its_runs(make_page: Maker) -> None:
    text = render(make_page(findings=(WARNING,)))
    health = text[text.index('id="health"') : text.index('id="comparison"')]
    assert health.count(WARNING.message) == 2  # once for each variant
    assert f'href="#{RUN[1]}"' in health
    assert f'href="#{RUN[3]}"' in health
    assert f'href="#{RUN[0]}"' not in health
    comparison = text[text.index('id="comparison"') : text.index('id="training"')]
    assert WARNING.message not in comparison


def test_without_findings_the_page_says_so_and_lists_the_rules(make_page: Maker) -> None:
    words = Parsed(render(make_page())).words
    assert "No findings." in words
    assert all(f"{rule.id} {rule.title}" in words for rule in RULES.values())
    assert "No findings." not in Parsed(render(make_page(findings=(WARNING,)))).words


def test_names_chosen_by_users_are_only_text(make_page: Maker) -> None:
    finding = Finding("H1", "error", f"message {ATTACK}", "l1")
    name = ATTACK.replace("/", "")  # a variant is a folder
    honest = Parsed(render(make_page(findings=(WARNING,), title="title")))
    attacked = Parsed(render(make_page(name, (finding,), title=f"title {ATTACK}")))
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in honest.elements]
    assert not [key for _, attributes in attacked.elements for key in attributes if key.startswith("on")]
    assert f"message {ATTACK}" in attacked.words
    assert f"title {ATTACK}" in attacked.words
    assert f"{name}=0/seed-0" in attacked.words
    labels = {value["run"] for value in json.loads(attacked.specs[0])["data"]["values"]}
    assert labels == {f"{name}={index}/seed-0" for index in range(4)}


def test_nothing_is_loaded_from_anywhere(make_page: Maker) -> None:
    text = render(make_page(findings=(WARNING,)))
    elements = Parsed(text).elements
    assert not [element for element in elements if LOADING & element[1].keys()]
    assert {attributes["href"] for tag, attributes in elements if tag == "link"} == {"data:,"}
    links = [attributes["href"] or "" for tag, attributes in elements if tag == "a"]
    assert links
    assert all(link.startswith("#") for link in links)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (meta["content"] for _, meta in elements if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy


def test_every_link_and_reference_has_a_target(make_page: Maker) -> None:
    elements = Parsed(render(make_page(findings=(WARNING,)))).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [attributes["href"][1:] for tag, attributes in elements if tag == "a"]
    for key in ("aria-labelledby", "aria-describedby"):
        targets += [attributes[key] for _, attributes in elements if key in attributes]
    assert set(targets) <= set(ids)


def test_the_table_behind_a_chart_has_its_numbers(make_page: Maker) -> None:
    page = make_page()
    chart = page.sections[0].charts[0]
    text = render(page)
    figure = text[text.index('id="pareto-ev"') :]
    table = Parsed(figure[figure.index("<thead>") : figure.index("</tbody>")])
    texts = [word.strip() for word in table.words.split("\n") if word.strip()]
    assert texts[0] == "".join(chart.columns)
    assert texts[1:] == ["".join(number(value) for value in row) for row in chart.rows]


def test_numbers_have_six_digits_and_integers_all_digits() -> None:
    assert [number(value) for value in (None, 12_345_678, 0.123456789, 1e-12, "a")] == [
        "",
        "12345678",
        "0.123457",
        "1e-12",
        "a",
    ]


@pytest.fixture(scope="module")
def ten_runs(make_study: Callable[[int, int], list[Path]]) -> list[Path]:
    """Ten runs, each with 1,000 lines of log: 100,000 steps."""
    return make_study(10, 1000)


def test_the_report_is_one_file_of_a_few_megabytes(ten_runs: list[Path], tmp_path: Path) -> None:
    out = report(ten_runs, tmp_path / "new" / "report.html", title="Ten", baseline=ten_runs[0])
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    assert out.stat().st_size < 5_000_000
    words = Parsed(out.read_text()).words
    assert "10 variants with 1 seed each at blocks.1.hook_resid_post, compared with l1=0." in words
    assert words.count("Resolved config") == 10


def test_equal_runs_give_equal_bytes(make_study: Callable[[int, int], list[Path]], tmp_path: Path) -> None:
    runs = make_study(2, 5)
    first, again = (report(runs, tmp_path / name) for name in ("first.html", "again.html"))
    assert first.read_bytes() == again.read_bytes()


def test_a_missing_extra_is_reported_with_its_installation(make_page: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_page()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MachineError, match=r"Jinja2\n.*pip install 'saepipe\[report\]'"):
        render(page)
    with pytest.raises(MachineError, match=r"vl-convert-python\n.*pip install 'saepipe\[report\]'"):
        javascript.__wrapped__()


def test_invalid_arguments_are_reported(ten_runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        report([], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="is a folder"):
        report(ten_runs[:1], tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        report([tmp_path / "nowhere"], tmp_path / "report.html")
    (tmp_path / "half").mkdir()
    with pytest.raises(CorruptDataError, match="not finished"):
        report([tmp_path / "half"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()

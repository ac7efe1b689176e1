"""The registry of figures and the pieces of a page, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import altair as alt
import pytest
import xarray as xr
from handmade_cube import handmade_cube

from metaeval.errors import UsageError
from metaeval.report import figures, page, tables
from metaeval.report.charts import style


def with_figures(cube: xr.DataTree, chosen: object) -> xr.DataTree:
    study = json.loads(cube.attrs["study"])
    cube.attrs["study"] = json.dumps({**study, "report": {"figures": chosen}})
    return cube


def test_a_study_chooses_figures() -> None:
    names = [
        figure.name for figure in figures.make_figures(with_figures(handmade_cube(), ["cost", "curves"]))
    ]
    assert names == ["cost", "curves-linf"]
    everything = figures.make_figures(with_figures(handmade_cube(), "all"))
    assert [figure.name for figure in everything] == [
        "reference-linf-0",
        "curves-linf",
        "crossings-linf",
        "classes-linf",
        "cost",
    ]


def test_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'curves'"):
        figures.make_figures(with_figures(handmade_cube(), ["curvs"]))


def test_specifications_are_valid_vega_lite() -> None:
    for figure in figures.make_figures(handmade_cube()):
        assert figure.spec is not None
        alt.Chart.from_dict({**figure.spec, "width": 300})
        assert figure.title
        assert figure.reading.endswith(".")
        assert figure.description.endswith(".")
        assert all(len(row) == len(figure.data.columns) for row in figure.data.rows)
        # What can be written as JSON without NaN can be read by every browser.
        json.dumps(figure.data.rows, allow_nan=False)


def test_looks_are_distinct() -> None:
    assert len({style.look(i) for i in range(36)}) == 36
    assert len({style.look(i)[1] for i in range(6)}) == 6
    assert not {colour for colour, _ in map(style.look, range(36))} & {"#F0E442", "#000000"}


@pytest.mark.parametrize(
    ("labels", "fractions"),
    [
        (["0", "1/255", "8/255"], True),
        (["0", "0.1"], False),
        (["1/255", "0.1"], False),
        (["1/2", "1/4"], False),
    ],
)
def test_epsilons_are_written_as_in_the_study(labels: list[str], fractions: bool) -> None:
    assert ("/255'" in style.epsilon_label_expression(labels)) == fractions


def test_tables_escape() -> None:
    html = tables.html_table(["<a>"], [["<b>", tables.Cell("<i>", ("<u>",))]], "<s>")
    assert not re.search(r"<(a|b|i|u|s)>", html)


def test_embedded_json_cannot_end_its_script() -> None:
    text = page.embed({"x": "</script><!--"})
    assert "<" not in text
    assert json.loads(text) == {"x": "</script><!--"}


def test_the_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "report.html"
    assert page.write_report(handmade_cube(), target) == target
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]
    before = target.read_text()
    with pytest.raises(UsageError):
        page.write_report(with_figures(handmade_cube(), ["none"]), target)
    assert target.read_text() == before


def test_the_page_names_no_other_place(tmp_path: Path) -> None:
    html = page.render(handmade_cube())
    assert html.count("<script>") == 2
    head = html.split("<script>")[0]
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", head)
    assert "default-src 'none'" in head

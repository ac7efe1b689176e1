"""One cube, one static page that opens anywhere, offline."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import xarray as xr

from metaeval import __version__
from metaeval.analysis.reading import attacks, attributes, models, norms, wish
from metaeval.analysis.subset import of_study
from metaeval.cube.opening import open_cube
from metaeval.report import words
from metaeval.report.figures import Figure, make_figures
from metaeval.report.findings import findings, how_sure
from metaeval.report.legend import legend
from metaeval.report.measures import measures_section
from metaeval.report.sections import provenance_section, trust_section
from metaeval.report.words import escape

# The strictest policy under which charts can be drawn; it also proves that the page fetches nothing.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def write_report(cube: xr.DataTree | str | os.PathLike[str], output: str | os.PathLike[str]) -> Path:
    """Write the report of a cube as one HTML file that fetches nothing.

    Parameters
    ----------
    cube : DataTree or path
        An opened cube, its ``cube.zarr`` or the folder that holds it.
    output : path
        The file to write; replaced in one step if it exists.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MissingInputError
        If there is no cube at the path.
    UsageError
        If the study names a figure that nobody provides.
    """
    tree = of_study(cube if isinstance(cube, xr.DataTree) else open_cube(Path(cube)))
    target = Path(output)
    page = render(tree)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def render(cube: xr.DataTree) -> str:
    """Return the page of a cube as HTML."""
    figures = make_figures(cube)
    charts = any(figure.spec for figure in figures)
    said = [*findings(cube), *(figure.finding for figure in figures if figure.finding)]
    return Template(_asset("page.html")).substitute(
        policy=POLICY,
        version=escape(__version__),
        title=escape(_about(cube, "title") or _about(cube, "name") or "Robustness report"),
        style=_asset("report.css"),
        about=_summary(cube),
        legend=legend(cube) if charts else "",
        findings="".join(f"<li>{sentence}</li>" for sentence in said),
        sure=how_sure(cube),
        figures="".join(figure_html(figure, models(cube)) for figure in figures),
        measures=measures_section(cube),
        trust=trust_section(cube),
        provenance=provenance_section(cube),
        date=time.strftime("%Y-%m-%d %H:%M %Z"),
        bundle=f"<script>{_bundle()}</script>" if charts else "",
        script=_asset("report.js"),
    )


def figure_html(figure: Figure, names: Sequence[str]) -> str:
    """Return one figure: sentence, chart or charts, what intervals cover, table, download."""
    name = escape(figure.name)
    payload: dict[str, Any] = {"columns": figure.data.columns, "rows": figure.data.rows}
    if figure.spec is not None:
        payload |= {"spec": figure.spec, "panels": figure.panels}
    parts = [
        f'<section class="figure" id="{name}" aria-labelledby="{name}-title">',
        f'<h2 id="{name}-title">{escape(figure.title)}</h2><p>{escape(figure.reading)}</p>',
        _charts(figure, names),
        f'<p class="covers">{escape(figure.covers)}</p>' if figure.covers else "",
        f"<details{' open' if figure.open_table else ''}><summary>Table</summary>{figure.table}</details>",
        f'<button type="button" class="download" data-csv="{name}">Download CSV</button>',
        f'<script type="application/json" id="data-{name}">{embed(payload)}</script></section>',
    ]
    return "\n".join(parts)


def embed(value: Any) -> str:
    """Return JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _charts(figure: Figure, names: Sequence[str]) -> str:
    """Return the places in which the page's script draws."""
    if figure.spec is None:
        return '<p class="nothing">Nothing to draw yet: no result of this figure is complete.</p>'
    if not figure.panels:
        return _chart(figure, "", figure.description)
    column = figure.data.columns.index(figure.panels)
    panels = []
    for value in dict.fromkeys(str(row[column]) for row in figure.data.rows):
        model = f' data-model="{escape(value)}"' if value in names else ""
        place = f' data-panel="{escape(value)}"'
        chart = _chart(figure, place, f"{value}: {figure.description}")
        panels.append(f'<div class="panel"{model}><h3>{escape(value)}</h3>{chart}</div>')
    return f'<div class="panels">{"".join(panels)}</div>'


def _chart(figure: Figure, place: str, label: str) -> str:
    name = escape(figure.name)
    return f'<div class="chart" data-figure="{name}"{place} role="img" aria-label="{escape(label)}"></div>'


def _summary(cube: xr.DataTree) -> str:
    """Return the size of the study in one line."""
    name = _about(cube, "name")
    parts = [f"study {name}"] if name else []
    parts.append(words.plural(len(models(cube)), "model"))
    group = next((cube.children[g] for g in ("clean", *norms(cube)) if g in cube.children), None)
    if group is not None and "total" in group.data_vars:
        parts.append(words.plural(int(group["total"].sum()), "test sample"))
        parts.append(words.plural(group.sizes["class"], "class"))
    for norm in norms(cube):
        count = words.plural(len(attacks(cube, norm)), "attack")
        parts.append(f"{words.norm_name(norm)}: {count} at {cube.children[norm].sizes['epsilon']} ε")
    for kind, (kept, number) in attributes(cube).get("subset", {}).items():
        parts.append(f"only {len(kept)} of {words.plural(number, kind)}, as [analysis] says")
    return escape(" · ".join(parts))


def _about(cube: xr.DataTree, key: str) -> str:
    """Return the study's name or title, wherever the cube's attributes say it."""
    study = attributes(cube).get("study")
    plain = study if key == "name" and isinstance(study, str) else ""
    return str(wish(cube, "study", key, plain))


def _asset(name: str) -> str:
    return (files("metaeval.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that can stand inside a script element."""
    import vl_convert

    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the snippet is optional
    return bundle.replace("</script", "<\\/script")

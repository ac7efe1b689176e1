"""One cube, one static page that opens anywhere, offline."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from metaeval import __version__
from metaeval.analysis import curves
from metaeval.analysis.reading import WORST_CASE, attacks, attributes, models, norms, references, wish
from metaeval.cube.opening import open_cube
from metaeval.report import words
from metaeval.report.charts.style import SHOWN_MODELS, dash, look
from metaeval.report.figures import Figure, make_figures
from metaeval.report.findings import findings, how_sure
from metaeval.report.sections import provenance_section, trust_section
from metaeval.report.words import escape

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


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
    UsageError
        If the study names a figure that nobody provides.
    """
    tree = cube if isinstance(cube, xr.DataTree) else open_cube(Path(cube))
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(render(tree), encoding="utf-8")
    partial.replace(target)
    return target


def render(cube: xr.DataTree) -> str:
    """Return the page of a cube as HTML."""
    figures = make_figures(cube)
    title = str(_about(cube, "title") or _about(cube, "name") or "Robustness report")
    sentences = "".join(f"<li>{sentence}</li>" for sentence in findings(cube))
    drawn = "".join(figure_html(figure, models(cube)) for figure in figures)
    charts = any(figure.spec for figure in figures)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="metaeval {escape(__version__)}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_asset("report.css")}</style>
</head>
<body>
<a class="skip" href="#findings">Skip to the findings</a>
<header><h1>{escape(title)}</h1><p class="about">{_summary(cube)}</p></header>
<div class="columns">
{_legend(cube) if charts else ""}
<main>
<section id="findings" aria-labelledby="findings-title"><h2 id="findings-title">Findings</h2>
<ul class="findings">{sentences}</ul>
<p class="sure"><strong>How sure is this?</strong> {how_sure(cube)}</p></section>
<noscript><p class="sure">Charts need JavaScript; the tables beneath hold their numbers.</p></noscript>
{drawn}
<section id="trust" aria-labelledby="trust-title"><h2 id="trust-title">Can these numbers be trusted?</h2>
{trust_section(cube)}</section>
<section id="provenance" aria-labelledby="provenance-title"><h2 id="provenance-title">Where the numbers come from</h2>
{provenance_section(cube)}</section>
</main></div>
<footer>Written by metaeval {escape(__version__)} on {time.strftime("%Y-%m-%d %H:%M %Z")}. One file, no network.</footer>
{f"<script>{_bundle()}</script>" if charts else ""}
<script>{_asset("report.js")}</script>
</body></html>
"""


def figure_html(figure: Figure, names: Sequence[str]) -> str:
    """Return one figure: sentence, chart or charts, table, download."""
    name = escape(figure.name)
    payload: dict[str, Any] = {"columns": figure.data.columns, "rows": figure.data.rows}
    if figure.spec is not None:
        payload["spec"] = figure.spec
    chart = '<p class="nothing">Nothing to draw yet: no result of this figure is complete.</p>'
    if figure.spec is not None and figure.panels:
        column = figure.data.columns.index(figure.panels)
        values = list(dict.fromkeys(row[column] for row in figure.data.rows))
        chart = '<div class="panels">' + "".join(_panel(figure, value, names) for value in values) + "</div>"
        payload["panels"] = figure.panels
    elif figure.spec is not None:
        chart = f'<div class="chart" data-figure="{name}" role="img" aria-label="{escape(figure.description)}"></div>'
    covers = f'<p class="covers">{escape(figure.covers)}</p>' if figure.covers else ""
    return f"""<section class="figure" id="{name}" aria-labelledby="{name}-title">
<h2 id="{name}-title">{escape(figure.title)}</h2><p>{escape(figure.reading)}</p>
{chart}{covers}
<details{" open" if figure.open_table else ""}><summary>Table</summary>{figure.table}</details>
<button type="button" class="download" data-csv="{name}">Download CSV</button>
<script type="application/json" id="data-{name}">{embed(payload)}</script></section>
"""


def embed(value: Any) -> str:
    """Return JSON that can stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _panel(figure: Figure, value: Any, names: Sequence[str]) -> str:
    model = f' data-model="{escape(value)}"' if value in names else ""
    label = escape(f"{value}: {figure.description}")
    return (
        f'<div class="panel"{model}><h3>{escape(value)}</h3><div class="chart" data-figure="{escape(figure.name)}" '
        f'data-panel="{escape(value)}" role="img" aria-label="{label}"></div></div>'
    )


def _legend(cube: xr.DataTree) -> str:
    """Return the page's legend: check boxes that select models and attacks in every chart."""
    names = models(cube)
    rows = list(dict.fromkeys(row for norm in norms(cube) for row in (WORST_CASE, *attacks(cube, norm))))
    shown = _shown(cube, names)
    boxes = "".join(
        f'<label title="{escape(name)}"><input type="checkbox" name="model" value="{escape(name)}"'
        f"{' checked' if name in shown else ''}>{_swatch(i)}<span>{escape(name)}</span></label>"
        for i, name in enumerate(names)
    )
    lines = "".join(
        f'<label title="{escape(name)}"><input type="checkbox" name="attack" value="{escape(name)}"'
        f"{' checked' if i == 0 else ''}>{_line(i)}<span>{escape(name)}</span></label>"
        for i, name in enumerate(rows)
    )
    attack_set = f"<fieldset><legend>Attacks</legend>{lines}</fieldset>" if rows else ""
    return f"""<aside><details class="legend" open><summary>Shown in the charts: <span id="shown"></span></summary>
<fieldset><legend>Models</legend><p class="all"><button type="button" data-all="model">all</button>
<button type="button" data-none="model">none</button></p><div class="boxes">{boxes}</div></fieldset>{attack_set}
<fieldset><legend>Lines</legend><label><input type="checkbox" id="bands" checked><span>interval bands</span></label>
</fieldset></details></aside>"""


def _shown(cube: xr.DataTree, names: Sequence[str]) -> set[str]:
    """Return the models checked at first: all, or with many those with the highest worst-case accuracy."""
    if len(names) <= SHOWN_MODELS:
        return set(names)
    score = np.zeros(len(names))
    for norm in norms(cube):
        for reference in references(cube, norm)[:1]:
            at = curves.from_cube(cube, norm)["accuracy"].sel(epsilon=reference.value, attack=WORST_CASE)
            score += np.nan_to_num(at.values, nan=-1.0)
    return {names[i] for i in np.argsort(-score, kind="stable")[:SHOWN_MODELS]}


def _swatch(position: int) -> str:
    colour, shape = look(position)
    paths = {
        "circle": '<circle cx="8" cy="8" r="5"/>',
        "square": '<rect x="3.5" y="3.5" width="9" height="9"/>',
        "triangle-up": '<path d="M8 2.5 13.5 13h-11z"/>',
        "triangle-down": '<path d="M8 13.5 13.5 3h-11z"/>',
        "diamond": '<path d="M8 2 13 8 8 14 3 8z"/>',
        "cross": '<path d="M6 2h4v4h4v4h-4v4H6v-4H2V6h4z"/>',
    }
    return f'<svg width="16" height="16" aria-hidden="true" fill="{colour}">{paths[shape]}</svg>'


def _line(position: int) -> str:
    pattern = " ".join(map(str, dash(position))) if position else "none"
    return (
        '<svg width="30" height="16" aria-hidden="true" stroke="currentColor" stroke-width="2">'
        f'<path d="M1 8h28" stroke-dasharray="{pattern}"/></svg>'
    )


def _summary(cube: xr.DataTree) -> str:
    names = models(cube)
    parts = [words.plural(len(names), "model")]
    group = next((cube.children[g] for g in ("clean", *norms(cube)) if g in cube.children), None)
    if group is not None and "total" in group.data_vars:
        parts.append(words.plural(int(group["total"].sum()), "test sample"))
        parts.append(words.plural(group.sizes["class"], "class"))
    for norm in norms(cube):
        count = words.plural(len(attacks(cube, norm)), "attack")
        parts.append(f"{words.norm_name(norm)}: {count} at {cube.children[norm].sizes['epsilon']} ε")
    name = _about(cube, "name")
    return escape(" · ".join([*([f"study {name}"] if name else []), *parts]))


def _about(cube: xr.DataTree, key: str) -> Any:
    """Return the study's name or title, wherever the cube's attributes say it."""
    found = wish(cube, "study", key, None)
    study = attributes(cube).get("study")
    return found or (study if key == "name" and isinstance(study, str) else None)


def _asset(name: str) -> str:
    return (files("metaeval.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script that can stand inside a script element."""
    import vl_convert

    return str(vl_convert.javascript_bundle(None)).replace("</script", "<\\/script")

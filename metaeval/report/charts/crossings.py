"""Where one model is certainly ahead of another, and where curves certainly cross."""

from __future__ import annotations

import altair as alt
import numpy as np
import xarray as xr

from metaeval.analysis import rankings
from metaeval.analysis.crossings import most_crossings, samples_needed
from metaeval.analysis.differences import ENOUGH_DISCORDANT
from metaeval.analysis.reading import coordinate, models, sampled_norms, seed, wish
from metaeval.errors import UsageError
from metaeval.report import words
from metaeval.report.charts import style
from metaeval.report.figures import Data, Figure
from metaeval.report.legend import leading_models
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import strong

SHOWN_PAIRS = 30
"""Of many pairs the figure holds those of the models checked at first and so many with most changes."""
COLUMNS = ("pair", "first", "second", "epsilon_label", "difference", "standard_error", "verdict")
VERDICTS = {1: "the first is certainly ahead", 0: "not certain", -1: "the second is certainly ahead"}


def figures(cube: xr.DataTree) -> list[Figure]:
    """Return one figure for each norm under which two models are complete at two epsilons or more."""
    wishes = wish(cube, "analysis", "crossings", {})
    confidence, margin = float(wishes.get("confidence", 0.95)), float(wishes.get("margin", 0.02))
    made = []
    for norm in sampled_norms(cube):
        if cube.children[norm].sizes["epsilon"] < 2:
            continue
        try:
            found = rankings.from_cube(cube, norm, alpha=1 - confidence, seed=seed(cube))
        except UsageError:  # fewer than two complete models
            continue
        made.append(_figure(cube, norm, found, confidence, margin))
    return made


def _figure(cube: xr.DataTree, norm: str, found: xr.Dataset, confidence: float, margin: float) -> Figure:
    name, level = words.norm_name(norm), words.level(confidence)
    order = np.lexsort((-found["naive_count"].values, -found["count"].values))
    leading = leading_models(cube, models(cube))
    both = [{str(found["first"].values[i]), str(found["second"].values[i])} <= leading for i in order]
    shown = found.isel(pair=[i for rank, i in enumerate(order) if rank < SHOWN_PAIRS or both[rank]])
    count, pairs = shown.sizes["pair"], found.sizes["pair"]
    labels = coordinate(cube, norm, "epsilon_label")
    left_out = f" {count:,} of {pairs:,} pairs: leading models, most changes." if count < pairs else ""
    return Figure(
        name=f"crossings-{norm}",
        title=f"Who is certainly ahead under {name} attack",
        reading=(
            "A triangle says which of two models is certainly more accurate at ε: ▲ the first, ▼ the second; "
            "a dot says that the samples do not decide. Curves certainly cross between a ▲ and a ▼ of one "
            f"row.{left_out}"
        ),
        description=(
            f"Grid of pairs of models by {name} epsilon: which of the two is certainly more accurate. The "
            "table beneath counts certified and observed crossings and says where they are."
        ),
        spec=_spec(labels),
        data=_rows(shown, labels),
        table=_table(shown, margin, confidence),
        covers=(
            f"All pairs and all ε together are right with a chance of {level} over the choice of the "
            f"{words.plural(found.attrs['samples'], 'test sample')}, on which all models are compared; the "
            "strength of the attacks is not covered. Observed changes of order mean little: two equal models "
            f"show many.{_missing(found)}"
        ),
        finding=_finding(found, norm, level),
    )


def _missing(found: xr.Dataset) -> str:
    names = [str(name) for name in found.attrs["missing"]]
    return f" Left out, since their results are not complete: {words.listing(names)}." if names else ""


def _finding(found: xr.Dataset, norm: str, level: str) -> str:
    """Return which curves certainly cross, as HTML."""
    name = words.norm_name(norm)
    certain = found.isel(swap=np.flatnonzero(found["certified"].values))
    observed = int(found["naive_count"].sum())
    band = f"{level} for all pairs and ε together, {words.plural(found.attrs['samples'], 'sample')}, paired"
    if not certain.sizes["swap"]:
        levels = found["epsilon"].values
        span = f"ε from {words.number(float(levels[0]))} to {words.number(float(levels[-1]))}"
        seen = f"; {words.plural(observed, 'observed change')} of order may be chance" if observed else ""
        critical = float(found.attrs["critical"])
        lead = critical * float(found["standard_error"].max())
        unseen = f"leads below {words.points(min(lead, 1))} cannot be excluded"
        if np.isnan(critical):
            unseen = f"fewer than {ENOUGH_DISCORDANT} samples tell any two models apart at any ε"
        return f"Under {name} no crossing is certain for {span} ({band}){seen}; {unseen}."
    swaps = [
        f"{strong(at['swap_first'].item())} leads {strong(at['swap_second'].item())} at ε = "
        f"{words.number(float(at['before']))} and trails at {words.number(float(at['after']))}"
        for at in (certain.isel(swap=i) for i in range(certain.sizes["swap"]))
    ]
    pairs = int((found["count"] > 0).sum())
    verb = "changes" if pairs == 1 else "change"
    times = f" {words.plural(len(swaps), 'time')} in all" if len(swaps) > pairs else ""
    return (
        f"Under {name} {words.plural(pairs, 'pair')} of curves certainly {verb} places{times} ({band}): "
        f"{words.listing(swaps, most=3)}."
    )


def _rows(found: xr.Dataset, labels: list[str]) -> Data:
    rows: list[list[object]] = []
    for i, j in np.ndindex(found["sign"].shape):
        first, second = str(found["first"].values[i]), str(found["second"].values[i])
        numbers = (style.rounded(float(found[key].values[i, j])) for key in ("difference", "standard_error"))
        verdict = VERDICTS[int(found["sign"].values[i, j])]
        rows.append([f"{first} – {second}", first, second, labels[j], *numbers, verdict])
    return Data(COLUMNS, rows)


def _spec(labels: list[str]) -> dict[str, object]:
    said = list(VERDICTS.values())
    chosen = "indexof(models, datum.first) >= 0 && indexof(models, datum.second) >= 0"
    colours = alt.Scale(domain=said, range=[style.COLOURS[0], "#888888", style.COLOURS[5]])
    shapes = alt.Scale(domain=said, range=["triangle-up", "circle", "triangle-down"])
    legend = alt.Legend(orient="top", title=None, columns=1, labelLimit=400)
    chart = (
        style.base()
        .transform_filter(chosen)
        .mark_point(filled=True, opacity=1)
        .encode(
            x=alt.X("epsilon_label:N", sort=labels, title="ε"),
            y=alt.Y("pair:N", sort=None, title=None),
            color=alt.Color("verdict:N", scale=colours, legend=legend),
            shape=alt.Shape("verdict:N", scale=shapes, legend=legend),
            size=alt.condition(f"datum.verdict == '{VERDICTS[0]}'", alt.value(12), alt.value(90)),
            tooltip=[
                "pair:N",
                alt.Tooltip("epsilon_label:N", title="ε"),
                "verdict:N",
                alt.Tooltip("difference:Q", format=".1%", title="difference"),
            ],
        )
    )
    return style.finish(chart, height={"step": 20})


def _table(found: xr.Dataset, margin: float, confidence: float) -> str:
    rows: list[list[str | Cell]] = []
    accuracy = found["accuracy"]
    for i in range(found.sizes["pair"]):
        at = found.isel(pair=i)
        first, second = str(at["first"].item()), str(at["second"].item())
        error = float(at["standard_error"].max())
        critical = float(found.attrs["critical"])
        drops = [float(accuracy.sel(model=m)[0] - accuracy.sel(model=m)[-1]) for m in (first, second)]
        lead = critical * error
        needed = np.nan if np.isnan(lead) else samples_needed(found.attrs["samples"], lead, margin)
        rows.append(
            [
                f"{first} – {second}",
                Cell(str(int(at["count"])), notes=tuple(_brackets(found, first, second))),
                Cell(str(int(at["naive_count"]))),
                Cell(str(most_crossings(drops, margin))),
                Cell(words.NOT_AVAILABLE if np.isnan(lead) else words.points(lead)),
                Cell(words.number(needed)),
            ]
        )
    header = [
        "pair",
        "certified crossings",
        "observed",
        f"at most, with leads of {words.points(margin)}",
        "lead that would be certain everywhere",
        f"samples that decide {words.points(margin)}",
    ]
    return html_table(header, rows, f"Crossings of each pair, {words.level(confidence)} for all together")


def _brackets(found: xr.Dataset, first: str, second: str) -> list[str]:
    """Return where a pair certainly crosses."""
    pair = {first, second}
    return [
        f"between {words.number(before)} and {words.number(after)}"
        for one, other, before, after, certain in zip(
            *(found[key].values for key in ("swap_first", "swap_second", "before", "after", "certified")),
            strict=True,
        )
        if certain and {str(one), str(other)} == pair
    ]

"""What the source study claims of measures and robustness, asked of a cube by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from metaeval.analysis import correlation, notions
from metaeval.analysis.reading import confidence
from metaeval.outcomes import NORMS

Verdict = Literal["supported", "partly supported", "mixed", "contradicted", "undecided", "not estimable"]
ENTROPY = "entropy"
OVER_MARGIN = "over_margin"


@dataclass(frozen=True)
class Claim:
    """One claim: which measures go with which notions of robustness, or that none does.

    Attributes
    ----------
    name, statement : str
    measure : callable
        From a measure's label and its family to whether the claim is about it.
    notion : callable
        From a notion's name likewise.
    associated : bool
        False for a claim that nothing goes together.
    """

    name: str
    statement: str
    measure: Callable[[str, str], bool]
    notion: Callable[[str], bool]
    associated: bool = True


@dataclass(frozen=True)
class Finding:
    """What a cube says of a claim.

    Attributes
    ----------
    verdict : str
    pairs : xarray.Dataset (pair)
        `measure`, `notion`, `spearman`, `lower`, `upper`, and given clean accuracy `partial`,
        `partial_lower`, `partial_upper`, simultaneous over the claim's pairs; `expected` sign (0 = none),
        `models`, `families`.
    sentence : str
    """

    claim: Claim
    verdict: Verdict
    pairs: xr.Dataset
    sentence: str


def _relative_under_attack(notion: str) -> bool:
    return notion.endswith(" relative") and notion.split(" ")[0] in NORMS


CLAIMS = (
    Claim(
        "accuracy-gap",
        "No measure predicts the accuracy gap",
        lambda label, family: True,
        lambda notion: notion.endswith(" gap"),
        associated=False,
    ),
    Claim(
        "relative-robustness",
        "In-distribution performance and norms over the margin go with relative robustness",
        lambda label, family: family == "performance" or (family == "norm" and OVER_MARGIN in label),
        lambda notion: notion.endswith(" relative"),
    ),
    Claim(
        "uncertainty-robustness",
        "Margin and entropy go with uncertainty robustness",
        lambda label, family: family == "margin" or (family == "uncertainty" and ENTROPY in label),
        lambda notion: notion.endswith((" log-loss", " log-loss ratio")),
    ),
    Claim(
        "sharpness-under-attack",
        "Sharpness goes with relative robustness under attack",
        lambda label, family: family == "sharpness",
        _relative_under_attack,
    ),
)


def check(cube: xr.DataTree, read: notions.Columns | None = None) -> list[Finding]:
    """Return what a cube says of each claim, in the order of `CLAIMS`.

    Parameters
    ----------
    read : Columns, optional
        Of this cube, if they are read already.

    Notes
    -----
    A pair counts as certain if its rank correlation given clean accuracy has an interval over families,
    simultaneous over the claim's pairs, that excludes 0. Gap and relative robustness are coupled with clean
    accuracy by construction, which is why it is taken as given. Where measures of performance, which clean
    accuracy nearly determines, are claimed to go with a notion, theirs is the plain rank correlation: there
    the coupling pulls the other way.
    """
    read = notions.read_columns(cube) if read is None else read
    kinds = notions.measure_families(cube)
    kinds = {name: kinds[name] for name in notions.candidates(cube, read) if name in kinds}
    x, y = read.measures.sel(measure=list(kinds)), read.robustness
    found = []
    for claim in CLAIMS:
        measures = [name for name, (family, _) in kinds.items() if claim.measure(name, family)]
        robust = [str(name) for name in y["notion"].values if claim.notion(str(name))]
        pairs = len(measures) * len(robust)
        if not pairs:
            missing = "measures" if not measures else "notions of robustness"
            said = f"{claim.statement}: not estimable, the cube has none of the {missing} it speaks of."
            found.append(Finding(claim, "not estimable", xr.Dataset(), said))
            continue
        level = 1 - (1 - confidence(cube)) / pairs
        table = correlation.correlations(
            x.sel(measure=measures).values,
            y.sel(notion=robust).values,
            read.family,
            read.clean,
            level,
        )
        found.append(_finding(claim, table, measures, robust, kinds, confidence(cube)))
    return found


_KEPT = (
    *("spearman", "lower", "upper", "partial", "partial_lower", "partial_upper"),
    *("models", "families"),
)


def _finding(
    claim: Claim,
    table: xr.Dataset,
    measures: list[str],
    robust: list[str],
    kinds: dict[str, tuple[str, int]],
    level: float,
) -> Finding:
    rows = np.repeat(np.arange(len(measures)), len(robust))
    expected = np.array([kinds[name][1] for name in measures])[rows]
    plain = np.array([kinds[name][0] == "performance" for name in measures])[rows]
    pairs = xr.Dataset(
        {
            "measure": ("pair", np.repeat(np.array(measures, dtype=object), len(robust))),
            "notion": ("pair", np.tile(np.array(robust, dtype=object), len(measures))),
            **{name: ("pair", table[name].values.ravel()) for name in _KEPT},
            "expected": ("pair", expected),
        },
        attrs={
            **table.attrs,
            "confidence": level,
            "simultaneous": "over the claim's pairs (Bonferroni)",
        },
    )
    plain &= claim.associated
    lower = np.where(plain, pairs["lower"], pairs["partial_lower"])
    upper = np.where(plain, pairs["upper"], pairs["partial_upper"])
    known = ~np.isnan(lower)
    sign = np.where(lower > 0, 1, np.where(upper < 0, -1, 0))
    r = np.nan_to_num(np.where(plain, pairs["spearman"], pairs["partial"]))
    # Where the literature says no sign, a measure must at least have one sign over all notions.
    means = np.array([r[rows == row].mean() for row in range(len(measures))])
    direction = np.where(expected != 0, expected, np.where(means < 0, -1, 1)[rows])
    agreeing, opposing = int((sign == direction).sum()), int((sign == -direction).sum())
    verdict = _verdict(claim, int(known.sum()), agreeing, opposing)
    counted = f"{int(known.sum())} of {len(known)} pairs of measure and notion are estimable"
    interval = f"simultaneous {100 * level:.3g} % family jackknife, given clean accuracy"
    interval += " but for measures of performance" if plain.any() else ""
    if verdict == "not estimable":
        said = f"intervals over families need {correlation.FAMILIES_NEEDED} families and complete measures"
    elif not claim.associated:
        widest = float(np.max((upper - lower)[known]) / 2)
        said = f"{agreeing + opposing} of them certainly go together ({interval}"
        said += f"; a correlation below about {widest:.2f} could go unnoticed)"
    else:
        said = f"{agreeing} certainly go together as claimed, {opposing} the other way ({interval})"
    return Finding(claim, verdict, pairs, f"{claim.statement}: {verdict}; {counted}, {said}.")


def _verdict(claim: Claim, known: int, agreeing: int, opposing: int) -> Verdict:
    if not known:
        return "not estimable"
    if not claim.associated:
        return "contradicted" if agreeing + opposing else "undecided"
    if agreeing and opposing:
        return "mixed"
    if opposing:
        return "contradicted"
    if agreeing == known:
        return "supported"
    return "partly supported" if agreeing else "undecided"

"""What a page of imported results says in words: findings, how sure they are, what is not supported."""

from __future__ import annotations

import numpy as np
import xarray as xr

from metaeval.analysis import published
from metaeval.analysis.reading import confidence, counted_norms, imported, models, norm_dataset, norms
from metaeval.report import words
from metaeval.report.charts.published import NAMES, WITHOUT_EPSILON, correlation_sentence
from metaeval.report.charts.published_shifts import effective
from metaeval.report.findings import clean
from metaeval.report.words import escape, strong

__all__ = ["findings", "how_sure", "trust_section"]


def findings(cube: xr.DataTree) -> list[str]:
    """Return the opening sentences for imported results, the most important first; HTML, names escaped."""
    said = imported(cube) or {}
    warned = [f"<strong>Beware:</strong> {escape(text)}" for text in said.get("warnings", [])]
    return [
        *warned,
        *_published(cube),
        *_claims(cube),
        *_classes(cube),
        *_clean(cube),
        *_shifts(cube),
        *(escape(note) for note in said.get("notes", [])),
    ]


def _published(cube: xr.DataTree) -> list[str]:
    frame = published.accuracies(cube)
    if not len(frame):
        return []
    level = words.level(confidence(cube))
    sentences = []
    for name in (name for name in published.ROBUST if name in frame):
        known = frame[frame[name].notna() & frame["clean_accuracy"].notna()]
        if not len(known):
            continue
        best = known.iloc[int(np.argmax(known[name].to_numpy()))]
        means = {key: float(known[key].mean()) for key in ("clean_accuracy", name)}
        found = published.rank_correlation(
            known["clean_accuracy"], known[name], known["family"], confidence(cube)
        )
        sentences.append(
            f"Over {words.plural(len(known), 'published model')} the mean clean accuracy is "
            f"{words.percent(means['clean_accuracy'])}, the mean {NAMES[name]} "
            f"{words.percent(means[name])}; "
            f"the highest is {words.percent(float(best[name]))} ({strong(best['model'])}). Clean accuracy "
            "and "
            f"{NAMES[name]} go together with {escape(correlation_sentence(found, level))}."
        )
        levels = known["epsilon"].value_counts()
        if len(levels) > 1 and name not in WITHOUT_EPSILON:
            main = known[known["epsilon"] == levels.index[0]]
            alone = published.rank_correlation(
                main["clean_accuracy"], main[name], main["family"], confidence(cube)
            )
            counts = words.listing([f"{n} at {escape(label)}" for label, n in levels.items()])
            sentences.append(
                f"The entries are of different ε ({counts}), which are not the same attack; at "
                f"{escape(levels.index[0])} alone {escape(correlation_sentence(alone, level))}."
            )
    return sentences


def _claims(cube: xr.DataTree) -> list[str]:
    """Return what the source prints, first where it contradicts itself or its table, then where it agrees."""
    wrong, right = [], []
    claims = published.claims(cube)
    for what in dict.fromkeys(claim.what for claim in claims):
        printed = {claim.printed: claim for claim in claims if claim.what == what}
        if len(printed) > 1:
            said = words.listing(
                [f"{100 * number:.2f} %{_where(claim)}" for number, claim in printed.items()]
            )
            wrong.append(f"<strong>Contradiction:</strong> {_named(what)}: the source prints {said}.")
    for claim in claims:
        said = f"{_named(claim.what)}: the source prints {100 * claim.printed:.2f} %{_where(claim)}"
        table = f"the table gives {100 * claim.found:.2f} %"
        if np.isfinite(claim.class_mean) and f"{claim.class_mean:.4f}" != f"{claim.found:.4f}":
            table += f" over all samples, {100 * claim.class_mean:.2f} % as the mean of its classes"
        if np.isnan(claim.found):
            right.append(f"{said}, which the table cannot confirm: it does not give the number.")
        elif claim.agrees:
            right.append(f"{said}, and {table}: they agree.")
        else:
            wrong.append(f"<strong>Contradiction:</strong> {said}, {table}.")
    return wrong + right


def _named(what: str) -> str:
    return escape(what[:1].upper() + what[1:])


def _where(claim: published.Checked) -> str:
    return f" ({escape(claim.where)})" if claim.where else ""


def _classes(cube: xr.DataTree) -> list[str]:
    sentences = []
    for norm in norms(cube):
        found = published.drops(cube, norm)
        if found is None or not np.isfinite(found["average_drop"]).any():
            continue
        average = found["average_drop"]
        order = np.argsort(-np.nan_to_num(average.values, nan=-np.inf), kind="stable")
        first, last = int(order[0]), int(order[np.isfinite(average.values).sum() - 1])
        overall = float(found["overall"])
        text = (
            f"Averaged over the models, class {strong(average['class'].values[first])} loses most under "
            f"{words.norm_name(norm)} attack, {words.points(float(average[first]))}, class "
            f"{strong(average['class'].values[last])} least, {words.points(float(average[last]))}"
        )
        if np.isfinite(overall):
            text += f"; over all classes the average is {words.points(overall)}"
        sentences.append(
            f"{text}. Whether such a ranking is more than chance cannot be tested from these numbers."
        )
    return sentences


def _clean(cube: xr.DataTree) -> list[str]:
    if "clean" not in cube.children:
        return []
    if (cube.children["clean"]["total"] >= 0).all():
        return clean(cube)
    accuracy = norm_dataset(cube, "clean")["accuracy"].values
    known = accuracy[np.isfinite(accuracy)]
    if cube.children["clean"].sizes["class"] > 1 or not len(known) or len(published.accuracies(cube)):
        return []
    names = models(cube)
    low, high = (names[int(f(accuracy[:, 0]))] for f in (np.nanargmin, np.nanargmax))
    return [
        f"Without shift or attack accuracies span {words.percent(float(known.min()))} ({strong(low)}) to "
        f"{words.percent(float(known.max()))} ({strong(high)}), as published."
    ]


def _shifts(cube: xr.DataTree) -> list[str]:
    if "shifts" not in cube.children:
        return []
    face = published.shifted(cube, confidence(cube))
    names = [str(name) for name in face["shift"].values]
    gap = (face["clean"] - face["accuracy"]).mean("model").values
    if not np.isfinite(gap).any():
        return []
    order = [i for i in np.argsort(-np.nan_to_num(gap, nan=-np.inf), kind="stable") if np.isfinite(gap[i])]
    shown = [f"{escape(names[i])} {words.points(float(gap[i]))}" for i in order[:4]]
    more = f" (of {len(order)} shifts the {len(shown)} with the largest)" if len(order) > len(shown) else ""
    sentences = [
        f"Accuracy lost under shift, averaged over the models that have both: {words.listing(shown)}{more}."
    ]
    for name in names if len(names) <= 4 else []:
        one = effective(face, name, confidence(cube))
        if isinstance(one, str):
            sentences.append(f"Effective robustness under {strong(name)}: {escape(one)}.")
            continue
        outside = int(((one["lower"] > 0) | (one["upper"] < 0)).sum())
        judged = int(one["lower"].notnull().sum())
        sentences.append(
            f"Under {strong(name)} the line of accuracy over clean accuracy (logit scale, "
            f"{one.attrs['baseline_models']} models) has slope {one.attrs['slope']:.2f} and R² = "
            f"{one.attrs['r2']:.2f}; outside their {words.level(confidence(cube))} prediction intervals lie "
            f"{outside} of {judged} models, where chance alone puts about "
            f"{words.number((1 - confidence(cube)) * judged)}."
        )
    return sentences


def how_sure(cube: xr.DataTree) -> str:
    """Return what the intervals on a page of imported results mean."""
    level = words.level(confidence(cube))
    parts = ["These results were published by others and imported; nothing was computed again."]
    if len(published.accuracies(cube)) or len(published.cost_of_parameters(cube)):
        parts.append(
            f"Intervals of rank correlations are family jackknives at {level}: they cover the choice of "
            "families "
            "of models, and neither the test samples nor the strength of the attacks."
        )
    if counted_norms(cube) or ("clean" in cube.children and (cube.children["clean"]["total"] >= 0).all()):
        parts.append(
            f"Intervals of accuracies are Wilson's at {level}; they cover the choice of the test samples "
            "and "
            "stand only where the number of correct samples is known."
        )
    if "samples" in cube.children and len(models(cube)) > 1:
        parts.append("Models are compared on the very same samples: exact McNemar tests, Holm-adjusted.")
    if norms(cube):
        parts.append("Every robust accuracy is an upper bound that a stronger attack may lower.")
    return " ".join(parts)


def trust_section(cube: xr.DataTree) -> str:
    """Return what cannot be checked of imported results."""
    said = imported(cube) or {}
    files = words.listing([escape(file["name"]) for file in said.get("files", [])])
    unchecked = (
        "no adversarial was checked again and no attack can be judged by its signs. " if norms(cube) else ""
    )
    return (
        f"<p>The numbers are those of {files}, whose checksums stand below; {unchecked}"
        "`metaeval verify` checks that the cube still holds what was imported.</p>"
    )

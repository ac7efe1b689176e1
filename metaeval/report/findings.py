"""The findings in plain sentences, each with how sure it is; they are HTML with escaped names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from metaeval.analysis import classes, curves, interclass, tables, trust
from metaeval.analysis.leaders import Lead, lead
from metaeval.analysis.left_out import left_out, short_of_target
from metaeval.analysis.reading import (
    WORST_CASE,
    Reference,
    attacks,
    confidence,
    models,
    norms,
    references,
    status,
)
from metaeval.report import words
from metaeval.report.words import escape, strong

NAMED = 5  # models that a sentence names


def findings(cube: xr.DataTree) -> list[str]:
    """Return the page's opening sentences, the most important first."""
    if not models(cube):
        return ["The cube holds no models yet."]
    sentences: list[str] = []
    doubted = {sign.model for sign in trust.signs(cube) if sign.serious}
    for norm in norms(cube):
        for reference in references(cube, norm):
            found = lead(cube, norm, reference, confidence(cube))
            sentences.append(leading(cube, found) + _doubt(found, doubted))
            if found.ranking:
                sentences += strongest_attack(cube, found)
                sentences += class_range(cube, found)
    sentences += [*clean(cube), *(escape(found.sentence()) for found in interclass.from_cube(cube).values())]
    return [*sentences, *completeness(cube), *failed_models(cube), *targets(cube), *doubts(cube)]


def how_sure(cube: xr.DataTree) -> str:
    """Return what the intervals and tests on the page mean."""
    count = len(models(cube))
    tests = ""
    if count > 1:
        tests = (
            " Models are compared on the very same samples: exact McNemar tests of all pairs of models, "
            "Holm-adjusted at each reference ε"
        )
        cochran = "; with three models or more no pair counts unless Cochran's Q also finds a difference"
        tests += f"{cochran if count > 2 else ''}."
    return (
        f"Intervals are Wilson's at {words.level(confidence(cube))}.{tests} "
        f"{'Intervals and tests' if tests else 'They'} cover "
        "the choice of the test samples; they cannot cover the strength of the attacks, and every robust "
        "accuracy here is an upper bound that a stronger attack may lower."
    )


def leading(cube: xr.DataTree, found: Lead) -> str:
    """Return which model is ahead at a reference epsilon, and whether that is certain."""
    where = _where(found.norm, found.reference)
    samples = words.plural(found.samples, "test sample")
    missing = _missing(cube, found)
    if not found.ranking:
        return f"At {where} no model has a worst-case accuracy yet.{missing}"
    ends = words.interval(found.lower[0], found.upper[0])
    level = words.level(confidence(cube))
    share = f"{_percent(found.accuracy[0])} ({level} interval {ends}; {samples})"
    if len(found.ranking) == 1:
        return f"At {where} {strong(found.ranking[0])} has a worst-case accuracy of {share}.{missing}"
    everyone = f"all {len(found.ranking)} models" if len(found.ranking) > 2 else "both models"
    if found.accuracy[0] == 0:
        return (
            f"At {where} no model withstands: the worst-case accuracy of {everyone} is 0 % "
            f"({level} interval {ends}; {samples}).{missing}"
        )
    if found.accuracy[-1] == 1:
        return (
            f"At {where} no attack broke any sample of any model: the worst-case accuracy of {everyone} is "
            f"100 % ({level} interval {ends}; {samples}). Either ε is too small to matter or the attacks are "
            f"too weak.{missing}"
        )
    return f"{_top(found, where, share)} {_certainty(found, confidence(cube))}{missing}"


def _top(found: Lead, where: str, share: str) -> str:
    tied = [
        name
        for name, accuracy in zip(found.ranking, found.accuracy, strict=True)
        if accuracy == found.accuracy[0]
    ]
    if len(tied) > 1:
        names = words.listing([strong(name) for name in tied])
        return f"At {where} {names} share the highest worst-case accuracy: {share}."
    second = f"{strong(found.ranking[1])} follows with {_percent(found.accuracy[1])}"
    return f"At {where} {strong(found.ranking[0])} has the highest worst-case accuracy: {share}; {second}."


def _certainty(found: Lead, confidence: float) -> str:
    comparison = found.comparison
    assert comparison is not None  # there are two models or more
    pair = comparison.pair(0, 1)
    adjusted, count = float(comparison.adjusted[pair]), len(comparison.p)
    pairs = f", adjusted for {count:,} pairs" if count > 1 else ""
    test = f"exact McNemar{pairs}, {escape(words.p_value(adjusted))}"
    others = len(found.beaten) + len(found.level)
    if found.ranking[1] in found.beaten:
        se = float(comparison.standard_error[pair])
        half = float(stats.norm.ppf(0.5 + confidence / 2)) * se
        low, high = found.margin - half, found.margin + half
        paired = (
            f"; paired {words.level(confidence)} interval {100 * low:.1f} to {100 * high:.1f}"
            if low > 0
            else ""
        )
        lead_text = f"Its lead of {words.points(found.margin)} is certain ({test}{paired})"
        if found.level:
            return f"{lead_text}, but not its lead over {_names(found.level)}."
        return f"{lead_text}, and so is its lead over every other model." if others > 1 else f"{lead_text}."
    size = float(comparison.detectable[pair])
    start = (
        "They are equal on these samples"
        if found.margin == 0
        else f"The two cannot be told apart on {words.plural(found.samples, 'sample')} (difference "
        f"{words.points(found.margin)}; {test})"
    )
    text = f"{start}; here a difference below about {words.points(size)} would usually go unnoticed."
    if len(found.level) > 1:
        text += f" Nor can {escape(found.ranking[0])} be told apart from {_names(found.level[1:])}."
    if found.beaten:
        text += f" It is certainly ahead of {_names(found.beaten)}."
    return text


def _doubt(found: Lead, doubted: set[str]) -> str:
    """Return that the first number itself is in doubt, which no interval says."""
    if not found.ranking or found.ranking[0] not in doubted:
        return ""
    return (
        f" <strong>Beware:</strong> signs speak against the number of {escape(found.ranking[0])}, "
        'which may be too high; see <a href="#trust">Can these numbers be trusted?</a>'
    )


def _missing(cube: xr.DataTree, found: Lead) -> str:
    if not found.missing:
        return ""
    state = status(cube, found.norm)
    why = [
        f"{strong(name)} ({escape(state['reason'].sel(model=name, attack=WORST_CASE).item() or 'pending')})"
        for name in found.missing
    ]
    return f" Without a worst case, and so not ranked: {words.listing(why)}."


def strongest_attack(cube: xr.DataTree, found: Lead) -> list[str]:
    """Return how much the worst case owes to more than one attack."""
    names = attacks(cube, found.norm)
    at = tables.at_epsilon(cube, found.norm, found.reference.value, confidence(cube))
    # An attack that does not apply to a model would be averaged over other models than the rest.
    everywhere = at["accuracy"].notnull().all("attack").values
    clean = curves.clean_from_cube(cube)["accuracy"].reindex(model=at["model"]).values
    at, clean = at.isel(model=everywhere), clean[everywhere]
    worst = at["accuracy"].sel(attack=WORST_CASE).values
    if len(names) < 2 or not len(worst) or np.array_equal(worst, clean):  # no attack broke anything
        return []
    mean = at["accuracy"].mean("model")
    best = names[int(np.argmin(mean.sel(attack=names).values))]
    equal = [name for name in names if np.isclose(mean.sel(attack=name), mean.sel(attack=best), atol=1e-12)]
    alone = {name: int(np.nansum(at["alone"].sel(attack=name).values)) for name in names}
    number, ranked = len(worst), len(found.ranking)
    over = (
        f"the {words.plural(number, 'model')} that every attack ran on" if number < ranked else "all models"
    )
    on_average = f"on average over {over} " if ranked > 1 else ""
    which = (
        f"{words.listing([strong(name) for name in equal])} are equally strong alone: {on_average}each"
        if len(equal) > 1
        else f"the strongest single attack is {strong(best)}: {on_average}it"
    )
    text = (
        f"At {_where(found.norm, found.reference)} {which} leaves {_percent(float(mean.sel(attack=best)))}, "
        f"all attacks together {_percent(float(worst.mean()))}."
    )
    kind, more = ("attack", names) if len(equal) > 1 else ("other attack", [n for n in names if n != best])
    counts = [f"{escape(name)} {alone[name]:,}" for name in more if alone[name]]
    if counts:
        where = f", over {over}" if ranked > 1 else ""
        text += f" Samples that only one {kind} broke{where}: {words.listing(counts)}."
    return [text]


def class_range(cube: xr.DataTree, found: Lead) -> list[str]:
    """Return how unequal the classes of the leading model are, beside what chance alone would show."""
    face = classes.from_cube(cube, found.norm, confidence(cube))
    at = face.sel(model=found.ranking[0], epsilon=found.reference.value, attack=WORST_CASE)
    worst, best, observed, expected = classes.spread(at["correct"].values, at["total"].values)
    if worst < 0 or observed == 0:
        return []
    leader, shares = strong(found.ranking[0]), at["accuracy"].values
    low, high = (
        f"{_percent(float(shares[i]))} of class {strong(at['class'].values[i])}" for i in (worst, best)
    )
    expectation = f"classes of equal difficulty would show about {words.points(expected)} by chance"
    verdict = ", so this one says little" if observed <= 1.2 * expected else ""
    where = _where(found.norm, found.reference)
    return [
        f"At {where} {leader} keeps {low} and {high}, a difference of {words.points(observed)}; "
        f"{expectation}{verdict}."
    ]


def clean(cube: xr.DataTree) -> list[str]:
    """Return the span of clean accuracies."""
    if "clean" not in cube.children:
        return []
    face = curves.clean_from_cube(cube, confidence(cube))
    known = face.isel(model=np.flatnonzero(~np.isnan(face["accuracy"].values)))
    if not known.sizes["model"]:
        return ["No clean accuracy is available yet."]
    order = np.argsort(-known["accuracy"].values, kind="stable")
    others = [str(name) for name in face["model"].values if name not in known["model"].values]
    more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
    absent = f" Not known of {words.listing([strong(n) for n in others[:NAMED]])}{more}." if others else ""

    def say(position: int) -> str:
        at = known.isel(model=position)
        ends = words.interval(float(at["lower"]), float(at["upper"]))
        return f"{_percent(float(at['accuracy']))} ({strong(str(at['model'].item()))}, {ends})"

    some = f" of {len(order)} of {len(face['model'])} models" if others else ""
    if len(order) == 1:
        return [f"Without an attack the accuracy is {say(int(order[0]))}.{absent}"]
    if known["accuracy"].values[order[0]] == known["accuracy"].values[order[-1]]:
        share = _percent(float(known["accuracy"].values[0]))
        which = f"every one{some}" if others else "every model"
        return [f"Without an attack {which} has the same accuracy, {share}.{absent}"]
    return [f"Without an attack accuracies{some} span {say(int(order[-1]))} to {say(int(order[0]))}.{absent}"]


def completeness(cube: xr.DataTree) -> list[str]:
    """Return whether every planned result is there, and what happened to those that are not."""
    if not norms(cube):
        return ["No attack has been run: the page shows clean accuracies only."]
    count = sum(len(attacks(cube, norm)) * len(models(cube)) for norm in norms(cube))
    open_columns = tables.incomplete(cube)
    skipped = open_columns[open_columns["status"] == "skipped"]
    open_columns = open_columns[open_columns["status"] != "skipped"]
    count -= len(skipped)
    sentences = []
    if not skipped.empty:
        sentences.append(
            f"{words.plural(len(skipped), 'attack')} on a model {'does' if len(skipped) == 1 else 'do'} not "
            f"apply (for example {escape(_example(skipped.iloc[0]))}): worst cases are over the others."
        )
    if open_columns.empty:
        complete = f"All {words.plural(count, 'planned result')} (model × norm × attack) are complete."
        return [complete, *sentences] if count else sentences
    kinds = [f"{n:,} {kind}" for kind, n in open_columns["status"].value_counts().items()]
    example = _example(open_columns.iloc[0])
    return [
        *sentences,
        f"{len(open_columns):,} of {words.plural(count, 'planned result')} are missing "
        f"({words.listing(kinds)}; for example {escape(example)}). What rests on them is shown as "
        f"{words.NOT_AVAILABLE}, never as robust.",
    ]


def failed_models(cube: xr.DataTree) -> list[str]:
    """Return which models no comparison includes, each with the reason."""
    found = left_out(cube)
    if not found:
        return []
    verb = "is" if len(found) == 1 else "are"
    reasons = [f"{strong(name)}: {escape(reason)}" for name, reason in found.items()]
    return [f"{words.plural(len(found), 'model')} {verb} left out: {'; '.join(reasons)}."]


def targets(cube: xr.DataTree) -> list[str]:
    """Return how many models did not come to the training loss that was to make them comparable."""
    found = short_of_target(cube)
    if not found:
        return []
    named = words.listing([strong(name) for name in found[:NAMED]])
    more = f" and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    return [
        f"{words.plural(len(found), 'model')} did not reach the target loss of training, so that comparing "
        f"with those that did compares how well they fit as well: {named}{more}."
    ]


def _example(row: pd.Series) -> str:
    reason = f": {row['reason']}" if row["reason"] else ""
    return f"{row['model']}, {words.norm_name(row['norm'])} {row['attack']}, {row['status']}{reason}"


def doubts(cube: xr.DataTree) -> list[str]:
    """Return how many models show a sign that their numbers may be too high."""
    if not norms(cube):
        return []
    signs = trust.signs(cube)
    doubted = list(dict.fromkeys(sign.model for sign in signs if sign.serious))
    reduced = sorted({place for sign in signs if sign.kind == "reduced" for place in sign.where})
    sentences = []
    if doubted:
        sentences.append(
            f"Look twice at {words.listing([strong(name) for name in doubted])}: signs that a number may not "
            'be what it seems stand under <a href="#trust">Can these numbers be trusted?</a>'
        )
    if reduced:
        places = words.listing([escape(words.column(place)) for place in reduced])
        sentences.append(f"Run below the attack's standard settings, so that more might break: {places}.")
    return sentences


def _percent(share: float) -> str:
    """Return a share; "< 0.1 %" must not look like markup."""
    return escape(words.percent(share))


def _where(norm: str, reference: Reference) -> str:
    return f"{words.norm_name(norm)} ε = {escape(reference.label)}"


def _names(names: tuple[str, ...]) -> str:
    return words.listing([strong(name) for name in names])

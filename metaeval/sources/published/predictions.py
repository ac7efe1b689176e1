"""Predictions of many models on shared test sets: per-sample outcomes, classes, shifts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from metaeval.errors import Problem, StudyError, unknown_name
from metaeval.sources.published import test_sets
from metaeval.sources.published.content import Problems, Published, repeated
from metaeval.sources.published.numbers import missing
from metaeval.sources.published.test_sets import TestSet

Integer = npt.NDArray[np.int64]
ORIGINAL = "original"
KIND = "test set"
MOST_CLASSES = 100_000
NAMED = 5  # models that a sentence names
NEAR_CHANCE = 2.0
"""Times the accuracy of guessing below which labels and predictions may be in different orders."""


def read(
    files: Sequence[Path],
    *,
    labels: Path | None = None,
    classes: Sequence[str] | None = None,
    original: str | None = None,
) -> Published:
    """Return predictions as a cube's content: the original test set clean, the others as shifts.

    Parameters
    ----------
    files : sequence of Path
        As `test_sets.read`; files with the same test set add models to it.
    labels : Path, optional
        True classes, for npy files.
    classes : sequence of str, optional
        Names of the classes in order; default: those of the file, else the labels that occur, sorted.
    original : str, optional
        The test set that counts as clean; default: the first.

    Raises
    ------
    StudyError
        With every problem in the files.
    """
    sets = _merged(files, labels)
    if original is not None and original not in sets:
        raise unknown_name("test set", original, sets)
    first = original or next(iter(sets))
    names = _classes(list(sets.values()), classes, files)
    models = list(dict.fromkeys(model for found in sets.values() for model in found.predictions))
    coded = {name: _coded(found, names, models, files) for name, found in sets.items()}
    clean_labels, clean = coded[first]
    correct, total = _counts(clean_labels, clean, len(names))
    groups: dict[str, dict[str, Any]] = {
        "clean": {"model": models, "class": names, "accuracy": _share(correct, total), "correct": correct,
                  "total": total},
        "samples/clean": _samples(sets[first], first, clean_labels) | {"model": models, "prediction": clean},
    }  # fmt: skip
    shifts = [name for name in sets if name != first]
    if shifts:
        groups["shifts"] = _shifts(models, names, {name: coded[name] for name in shifts}, sets)
    for name in shifts:
        label, prediction = coded[name]
        groups[f"samples/shifts/{name}"] = _samples(sets[name], name, label) | {
            "model": models,
            "severity": [0],
            "clean": np.full(len(label), -1),
            "prediction": prediction[:, None],
        }
    warnings = [text for name in sets if (text := wrong_order(name, *coded[name], len(names)))]
    compared = "Models are compared on the same samples" if len(models) > 1 else ""
    unpaired = "samples of different test sets are not paired" if shifts else ""
    said = "; ".join(part for part in (compared, unpaired) if part)
    notes = [
        *([f"{said[0].upper()}{said[1:]}."] if said else []),
        "The files hold no attacks and no logits: nothing is said of adversarial robustness and calibration.",
    ]
    absent = [f"{m} on {n}" for n in sets for m in models if m not in sets[n].predictions]
    if absent:
        notes.append(f"Without predictions, and so not available: {', '.join(absent)}.")
    for name, (label, prediction) in coded.items():
        notes += _holes(name, models, prediction)
        warnings += strange_classes(name, models, names, label, prediction)
    counts = {"models": len(models), "classes": len(names)}
    counts |= {f"samples of {name}": len(found.labels) for name, found in sets.items()}
    sources = [*files, *([labels] if labels else [])]
    stem = re.sub(r"[^A-Za-z0-9_.-]", "-", files[0].stem)
    title = f"Predictions of {len(models)} models" if len(models) > 1 else f"Predictions of {models[0]}"
    options = {"original": first, "classes": names if classes else None}
    columns: dict[str, list[Any]] = {}
    return Published(
        "predictions", stem, title, models, columns, groups, sources, options, counts, notes, warnings
    )


def _holes(name: str, models: list[str], prediction: Integer) -> list[str]:
    """Return which models leave out some samples of a test set."""
    lost = (prediction < 0).sum(axis=1)
    some = [f"{m} {n:,}" for m, n in zip(models, lost, strict=True) if 0 < n < prediction.shape[1]]
    if not some:
        return []
    more = f" and {len(some) - NAMED:,} models more" if len(some) > NAMED else ""
    return [
        f"Predictions that are missing on {name}: {', '.join(some[:NAMED])}{more} (of "
        f"{prediction.shape[1]:,} samples); what rests on them is not available."
    ]


def strange_classes(
    name: str, models: list[str], classes: list[str], label: Integer, prediction: Integer
) -> list[str]:
    """Return a warning for models with more classes that no sample has than classes of samples.

    So it is with numbers of rows and other columns that are no predictions.
    """
    real = np.bincount(label, minlength=len(classes)) > 0
    found = []
    for model, row in zip(models, prediction, strict=True):
        said = np.bincount(row[row >= 0], minlength=len(classes)) > 0
        if (said & ~real).sum() > real.sum():
            found.append(
                f"{name}: {model} names {(said & ~real).sum():,} classes that no sample has, and the samples "
                f"have {real.sum():,}; is it a column of predictions?"
            )
    return found


def _merged(files: Sequence[Path], labels: Path | None) -> dict[str, TestSet]:
    """Return the test sets of all files by name; the same set of two files gets the models of both."""
    problems: list[Problem] = []
    merged: dict[str, TestSet] = {}
    unnamed: list[str] = []
    for path in files:
        found = Problems(path)
        for one in test_sets.read(path, labels):
            # Without labels of their own, npy files differ in their models and not in their test set.
            name = one.name or (path.stem if len(files) > 1 and labels is None else ORIGINAL)
            if not one.name and name != ORIGINAL:
                name = next((other for other in unnamed if _more_models(merged[other], one)), name)
                unnamed.append(name)
            if not re.fullmatch(r"[A-Za-z0-9_.][A-Za-z0-9_. -]*", name):
                found.add(name, "names of test sets are of letters, digits, '_', '-', '.' and spaces")
                continue
            there = merged.setdefault(name, TestSet(name, one.labels, {}, one.ids, one.classes))
            if there.ids and one.ids and there.ids != one.ids:
                if sorted(there.ids) != sorted(one.ids):
                    found.add(name, "another file has other sample_id for this test set")
                    continue
                one = _in_order(one, there.ids)
            there.ids = there.ids or one.ids
            if len(there.labels) != len(one.labels) or list(there.labels) != list(one.labels):
                found.add(name, "another file has other labels for this test set")
                continue
            for model in repeated([*there.predictions, *one.predictions]):
                found.add(f"{name}: {model}", "another file has predictions of this model already")
            there.predictions |= one.predictions
        problems += found.found
    if problems:
        raise StudyError(problems)
    if unnamed and len(merged) == 1:
        (only,) = merged.values()
        only.name = ORIGINAL
        merged = {ORIGINAL: only}
    if not any(found.predictions for found in merged.values()):
        raise Problems(files[0]).fail("prediction", "there are no predictions: no model")
    return merged


def _more_models(there: TestSet, one: TestSet) -> bool:
    """Tell whether a file without a name of its test set holds other models of a test set that is there."""
    if there.predictions.keys() & one.predictions.keys():
        return False
    if there.ids and one.ids:
        return sorted(there.ids) == sorted(one.ids)
    return list(there.labels) == list(one.labels)


def _in_order(found: TestSet, ids: list[str]) -> TestSet:
    """Return a test set with its samples in another order."""
    place = {name: position for position, name in enumerate(found.ids or [])}
    order = [place[name] for name in ids]
    said = {model: np.asarray(values)[order] for model, values in found.predictions.items()}
    return TestSet(found.name, found.labels[order], said, ids, found.classes)


def _classes(sets: Sequence[TestSet], given: Sequence[str] | None, files: Sequence[Path]) -> list[str]:
    problems = Problems(", ".join(str(path) for path in files))
    names = list(given) if given else next((found.classes for found in sets if found.classes), None)
    if names:
        for name in repeated(names):
            problems.add("class", f"{name!r} occurs twice")
        problems.stop()
        return names
    columns = [values for found in sets for values in (found.labels, *found.predictions.values())]
    written = {str(value).strip() for values in columns for value in values if not missing(value)}
    numbers = [number for word in written if (number := _whole(word)) is not None]
    if len(numbers) < len(written):
        text = sorted(word for word in written if _whole(word) is None)
        if numbers or any(re.fullmatch(r"[+-]?[0-9.eE+-]+", word) for word in text):
            columns_of_all = {
                column: values
                for found in sets
                for column, values in {"label": found.labels, **found.predictions}.items()
            }
            where = next(
                column
                for column, values in columns_of_all.items()
                if text[0] in map(str.strip, map(str, values))
            )
            raise problems.fail(
                "class",
                f"classes are whole numbers or words, not both or others: {', '.join(text[:3])} ({where})",
            )
        return text
    if max(numbers, default=0) >= MOST_CLASSES:
        raise problems.fail("class", f"class {max(numbers):,} is beyond {MOST_CLASSES:,} classes")
    # -1 is how arrays of whole numbers say that there is none; some count classes from 1.
    first = 1 if min((number for number in numbers if number >= 0), default=0) == 1 else 0
    return [str(number) for number in range(first, max(numbers, default=0) + 1)]


def _whole(word: str) -> int | None:
    """Return a class as a number: 3 of "3" and "3.0"."""
    match = re.fullmatch(r"(-?[0-9]{1,12})(\.0*)?", word)
    return int(match[1]) if match else None


def _coded(
    found: TestSet, names: list[str], models: list[str], files: Sequence[Path]
) -> tuple[Integer, Integer]:
    """Return labels (sample,) and predictions (model, sample) as positions of classes; -1 = no prediction."""
    problems = Problems(", ".join(str(path) for path in files))
    place = {name: position for position, name in enumerate(names)}
    # Names that are numbers are meant themselves: beside 1 to 10, a 1 is not the second class.
    by_position = not any(_whole(name) is not None for name in names)
    cache: dict[str, int] = {}

    def code(values: Any, what: str, *, needed: bool) -> list[int]:
        codes = []
        for position, value in enumerate(values):
            word = str(value).strip()
            if word not in cache:
                number = _whole(word)
                known = -2 if number is None else place.get(str(number), -1 if number == -1 else -2)
                if by_position and number is not None and 0 <= number < len(names):
                    known = number
                cache[word] = place.get(word, known)
            codes.append(-1 if missing(value) else cache[word])
            if codes[-1] == -2 or (needed and codes[-1] == -1):
                listed = f"{', '.join(names[:5])} ..." if len(names) > 5 else ", ".join(names)
                allowed = (
                    f"0 to {len(names) - 1} or {listed}" if by_position else f"{names[0]} to {names[-1]}"
                )
                problems.add(what, f"sample {position}: {word!r} is no class; allowed: {allowed}")
                break
        return codes

    label = code(found.labels, f"{found.name}: label", needed=True)
    predictions = np.full((len(models), len(found.labels)), -1, dtype=np.int64)
    for model, values in found.predictions.items():
        codes = code(values, f"{found.name}: prediction of {model}", needed=False)
        predictions[models.index(model), : len(codes)] = codes
    problems.stop()
    return np.array(label, dtype=np.int64), predictions


def _counts(label: Integer, prediction: Integer, classes: int) -> tuple[Integer, Integer]:
    """Return correct (model, class), -1 where a prediction of the class is missing, and total (class,)."""
    total = np.bincount(label, minlength=classes)
    correct = np.array(
        [
            np.where(
                np.bincount(label[row >= 0], minlength=classes) == total,
                np.bincount(label[row == label], minlength=classes),
                -1,
            )
            for row in prediction
        ],
        dtype=np.int64,
    )
    # A class without samples has nothing missing, but neither has a model without predictions.
    correct[(prediction < 0).all(axis=1)] = -1
    return correct, total.astype(np.int64)


def _share(correct: Integer, total: Integer) -> npt.NDArray[np.float64]:
    known = (correct >= 0) & (total > 0)
    return np.where(known, correct / np.where(total > 0, total, 1), np.nan)


def _samples(found: TestSet, name: str, label: Integer) -> dict[str, Any]:
    ids = found.ids or [f"{name}/{position}" for position in range(len(label))]
    return {"sample": np.arange(len(label)), "label": label, "sample_id": ids}


def _shifts(
    models: list[str], names: list[str], coded: dict[str, tuple[Integer, Integer]], sets: dict[str, TestSet]
) -> dict[str, Any]:
    pairs = [_counts(label, prediction, len(names)) for label, prediction in coded.values()]
    correct = np.stack([pair[0] for pair in pairs], axis=-1)[..., None]
    total = np.stack([pair[1] for pair in pairs], axis=-1)[..., None]
    there = np.array([[model in sets[name].predictions for name in coded] for model in models])
    return {
        "model": models,
        "class": names,
        "shift": list(coded),
        "severity": [0],
        "kind": [KIND] * len(coded),
        "accuracy": _share(correct, total),
        "correct": correct,
        "total": total,
        "status": np.where(there, 1, 3),
        "reason": np.where(there, "", "no predictions in the files"),
    }


def wrong_order(name: str, label: Integer, prediction: Integer, classes: int) -> str:
    """Return a warning if no model is much better than guessing, "" otherwise.

    Published classifiers are not: then labels and predictions are in different orders, as when one of them is
    sorted by class. Models that agree with each other but not with the labels show it best.
    """
    rows = prediction[(prediction >= 0).all(axis=1)]
    if not len(rows) or (label == label[0]).all():  # labels of one class have no order
        return ""
    best = float((rows == label).mean(axis=1).max())
    guessing = float(np.bincount(label).max() / len(label))
    # Two standard errors above twice chance: the best of several models may be that lucky.
    if (
        best > NEAR_CHANCE / classes + 2 * np.sqrt(1 / classes / len(label))
        or best > guessing + (1 - guessing) / 2
    ):
        return ""
    correct = int((rows == label).sum(axis=1).max())
    if stats.binom.cdf(correct, len(label), guessing + (1 - guessing) / 2) > 0.01:
        return ""  # too few samples to say so
    agreement = float((rows[0] == rows[-1]).mean()) if len(rows) > 1 else float("nan")
    alike = f"; the models agree with each other on {100 * agreement:.0f} %" if agreement > 2 * best else ""
    by_class = "; its labels are sorted by class" if (np.diff(label) >= 0).all() else ""
    return (
        f"{name}: the best model is right on {100 * best:.1f} % of the samples, guessing on "
        f"{100 / classes:.1f} %{alike}{by_class}. Labels and predictions are probably in different orders: "
        "give both in the same order (usually that of the original test set)."
    )

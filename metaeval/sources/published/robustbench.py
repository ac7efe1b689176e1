"""RobustBench's published results: its `model_info` JSON files and corruption tables."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from metaeval.errors import Problem, StudyError, UsageError, unknown_name
from metaeval.sources.data.archives import DAMAGE, open_files
from metaeval.sources.published import corruptions
from metaeval.sources.published.content import ALL, Problems, Published, existing, read_bytes
from metaeval.sources.published.numbers import missing, share
from metaeval.study.numbers import parse_epsilon

NORMS = {"Linf": "linf", "L2": "l2", "L1": "l1"}
CORRUPTIONS = ("corruptions", "corruptions_3d")
THREATS = (*NORMS, *CORRUPTIONS)
BEST_KNOWN, AUTOATTACK, EXTERNAL, REPORTED = "worst-case", "autoattack", "external", "reported"
ATTACKS = (BEST_KNOWN, AUTOATTACK, EXTERNAL, REPORTED)

# Fields that are shares in percent: column of /models, largest value allowed (None: a ratio of errors).
SHARES: dict[str, tuple[str, float | None]] = {
    "clean_acc": ("clean_accuracy", 1.0),
    "autoattack_acc": ("autoattack_accuracy", 1.0),
    "external": ("external_accuracy", 1.0),
    "reported": ("reported_accuracy", 1.0),
    "corruptions_acc": ("corruptions_accuracy", 1.0),
    "corruptions_acc_3d": ("corruptions_3d_accuracy", 1.0),
    "corruptions_mce": ("corruptions_mce", None),
    "corruptions_mce_3d": ("corruptions_3d_mce", None),
}
TEXTS = {
    "architecture": "architecture",
    "authors": "authors",
    "venue": "venue",
    "link": "link",
    "footnote": "footnote",
}
RESIDUAL = re.compile(
    r"(?:MeanSparse )?(?:Ra)?(?:(?:PreAct)?ResNet-(?P<deep>\d+)|WideResNet-(?P<wide>\d+)-(?P<width>\d+))"
)
OTHERS = ("name", "dataset", "eps", "additional_data", "number_forward_passes", "unreliable")
KNOWN = (*SHARES, *TEXTS, *OTHERS)
MISSPELT = 0.85
"""Likeness of a name to that of an absent field from which on it is taken for it and not for a new one."""


@dataclass
class Leaderboard:
    """The files of one data set and threat model: JSON fields by model, and corruption tables."""

    dataset: str
    threat: str
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def read(
    paths: Sequence[Path], dataset: str | None = None, threat_model: str | None = None
) -> list[Published]:
    """Return the published results of each data set and threat model, which are never pooled.

    Parameters
    ----------
    paths : sequence of Path
        One folder or zip file, or JSON files; data set and threat model are the names of the two folders
        above a file, as in ``cifar10/Linf/Peng2023Robust.json``.
    dataset, threat_model : str, optional
        Only these; for files that lie in no such folders, what they are.

    Raises
    ------
    StudyError
        With every problem in the files.
    MissingInputError
        If a path is not there.
    """
    problems: list[Problem] = []
    boards: dict[tuple[str, str], Leaderboard] = {}
    if threat_model is not None and threat_model not in THREATS:
        raise unknown_name("threat model", threat_model, THREATS)
    for origin, place, content in _files(paths):
        found = Problems(place)
        parts = PurePosixPath(place).parts
        folder = parts[-3:-1] if len(parts) >= 3 and parts[-2] in THREATS else None
        where = folder or (dataset, threat_model)
        if None in where:
            found.add(
                "path",
                "data set and threat model are not known: put the file into a folder "
                f"<data set>/<{' | '.join(THREATS)}>, or give --dataset and --threat-model",
            )
        elif dataset in (None, where[0]) and threat_model in (None, where[1]):
            key = (str(where[0]), str(where[1]))
            board = boards.setdefault(key, Leaderboard(*key))
            _take(board, PurePosixPath(place), content, found)
            board.files += [] if origin in board.files else [origin]
        problems += found.found
    boards = {key: board for key, board in boards.items() if board.entries}
    if not boards and not problems:
        raise UsageError(
            f"no model of {dataset or 'any data set'}, {threat_model or 'any threat model'} there"
        )
    if problems:
        raise StudyError(problems)
    return [_published(board) for board in boards.values()]


def _files(paths: Sequence[Path]) -> Iterable[tuple[Path, str, bytes]]:
    """Yield (path given, path of the file, content) of every JSON and CSV file."""
    for path in map(existing, paths):
        if path.suffix in (".json", ".csv") and path.is_file():
            yield path, str(path), read_bytes(path)
            continue
        try:
            listing = open_files(path)
            names = [name for name in listing.paths if name.endswith((".json", ".csv"))]
            contents = list(listing.read(names))
        except DAMAGE as error:
            raise Problems(path).fail(
                "file", f"it is no folder, zip or JSON file that can be read ({error})"
            ) from None
        if not names:
            raise Problems(path).fail("file", "there is no JSON file in it")
        for name, content in zip(names, contents, strict=True):
            # A folder given may itself be <data set> or <threat model>.
            whole = str(path.resolve() / name) if path.is_dir() else f"{path}/{name}"
            yield path, whole, content


def _take(board: Leaderboard, place: PurePosixPath, content: bytes, problems: Problems) -> None:
    try:
        text = content.decode("utf-8-sig")
        if place.suffix == ".csv":
            board.tables[str(place)] = text
            return
        entry = json.loads(text, parse_constant=lambda word: word)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        problems.add("JSON", f"not valid JSON: {error}", line=getattr(error, "lineno", 1))
        return
    if not isinstance(entry, dict):
        problems.add("JSON", "an object with the model's fields is needed")
        return
    if place.stem in board.entries:
        problems.add("model", f"{place.stem!r} occurs twice in {board.dataset} {board.threat}")
        return
    _check_fields(entry, problems)
    board.entries[place.stem] = {**entry, "": str(place)}


def _check_fields(entry: dict[str, Any], problems: Problems) -> None:
    """Note misspelt fields, shares that are none, and lists where one value is needed."""
    for name, value in entry.items():
        absent = [known for known in KNOWN if known not in entry]
        near = next(iter(difflib.get_close_matches(name, absent, 1, MISSPELT)), None)
        if name not in KNOWN and near:
            problems.add(name, f"unknown field; allowed: {', '.join(sorted(KNOWN))}", near)
        elif isinstance(value, dict | list) and name in KNOWN:
            problems.add(name, "one value is needed, not a list or an object")
    if "clean_acc" not in entry and not problems.found:
        problems.add("clean_acc", "the field is missing")
    for name, (_, most) in SHARES.items():
        try:
            share(entry.get(name), "percent", most)
        except ValueError as error:
            problems.add(name, str(error))
    try:
        if not missing(entry.get("eps")) and not parse_epsilon(entry["eps"]).value > 0:
            problems.add("eps", "an epsilon above 0 is needed")
    except ValueError as error:
        problems.add("eps", str(error))


def _published(board: Leaderboard) -> Published:
    names = sorted(board.entries)
    rows = [board.entries[name] for name in names]
    columns, notes = _columns(board, rows), _contradictions(board)
    groups: dict[str, dict[str, Any]] = {"published": _as_written(names, rows)}
    clean = np.array(columns["clean_accuracy"])
    groups["clean"] = {
        "model": names,
        "class": [ALL],
        "accuracy": clean[:, None],
        "correct": np.full((len(names), 1), -1),
        "total": np.array([-1]),
    }
    counts = {"models": len(names)}
    if board.threat in NORMS:
        groups[NORMS[board.threat]] = _norm(names, rows, columns, board)
        levels = [str(row["eps"]) for row in rows if not missing(row.get("eps"))]
        counts |= {f"epsilon {label}": levels.count(label) for label in dict.fromkeys(sorted(levels))}
    else:
        shifts, more, cells = corruptions.read(board.tables, names, columns)
        notes += more
        if shifts:
            groups["shifts"] = shifts
        counts["corruption results"] = cells
    each = "one accuracy per model" + ("" if board.threat in NORMS else ", corruption and severity")
    notes.insert(
        0,
        f"The files hold {each} and no number of samples, no classes and no per-sample "
        "outcomes: no interval over test samples, paired test, accuracy per class or robustness curve can be "
        "computed.",
    )
    options = {"dataset": board.dataset, "threat_model": board.threat}
    title = f"RobustBench's published results: {board.dataset}, {board.threat}"
    name = f"{board.dataset}-{board.threat}".lower()
    return Published("robustbench", name, title, names, columns, groups, board.files, options, counts, notes)


def _columns(board: Leaderboard, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"family": [_text(row.get("name")) for row in rows]}
    for name, column in TEXTS.items():
        columns[column] = [_text(row.get(name)) for row in rows]
    columns["dataset"] = [board.dataset] * len(rows)
    columns["threat_model"] = [board.threat] * len(rows)
    columns["epsilon_label"] = [None if missing(row.get("eps")) else str(row["eps"]) for row in rows]
    for name in ("additional_data", "unreliable"):
        columns[name] = [_text(row.get(name)) for row in rows]
    columns["forward_passes"] = [row.get("number_forward_passes") for row in rows]
    columns |= _derived([_text(row.get("venue")) or "" for row in rows], columns["architecture"])
    for name, (column, most) in SHARES.items():
        columns[column] = [share(row.get(name), "percent", most) for row in rows]
    attacked = zip(columns["autoattack_accuracy"], columns["external_accuracy"], strict=True)
    columns["best_known_accuracy"] = [_least(pair) for pair in attacked]
    return {name: column for name, column in columns.items() if not all(missing(v) for v in column)}


def _derived(venues: list[str], architectures: list[str | None]) -> dict[str, list[Any]]:
    """Return what the texts say in numbers: the venue's year, depth and widening factor of residual nets."""
    years = [re.findall(r"\b(?:19|20)\d\d\b", venue) for venue in venues]
    nets = [RESIDUAL.fullmatch(text or "") for text in architectures]
    return {
        "year": [int(found[-1]) if found else None for found in years],
        "depth": [int(net["deep"] or net["wide"]) if net else None for net in nets],
        "width": [int(net["width"]) if net and net["width"] else None for net in nets],
    }


def _least(values: Iterable[float]) -> float:
    return min((value for value in values if not math.isnan(value)), default=math.nan)


def _text(value: Any) -> str | None:
    if missing(value):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_written(names: list[str], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return every field of every file as it is written; text without quotes, anything else as JSON."""
    fields = list(dict.fromkeys(name for row in rows for name in row if name))
    written = [
        [
            "" if name not in row else row[name] if isinstance(row[name], str) else json.dumps(row[name])
            for name in fields
        ]
        for row in rows
    ]
    return {"model": names, "field": fields, "written": written}


def _norm(
    names: list[str], rows: list[dict[str, Any]], columns: dict[str, list[Any]], board: Leaderboard
) -> dict[str, Any]:
    """Return the group of a norm: one level per epsilon as written, one row per kind of evaluation."""
    problems = Problems(f"{board.dataset}/{board.threat}")
    for row in rows:
        if missing(row.get("eps")):
            problems.add("eps", f"{row['']}: results under {board.threat} need their epsilon")
    problems.stop()
    labels: dict[float, str] = {}
    for row in rows:
        level = parse_epsilon(str(row["eps"]))
        labels.setdefault(level.value, level.label)
    levels = sorted(labels)
    shape = (len(names), 1, len(levels), len(ATTACKS))
    accuracy = np.full(shape, np.nan)
    kinds = ("best_known", "autoattack", "external", "reported")
    for i, row in enumerate(rows):
        for j, kind in enumerate(kinds):
            known = columns.get(f"{kind}_accuracy")
            level_of = levels.index(parse_epsilon(str(row["eps"])).value)
            accuracy[i, 0, level_of, j] = known[i] if known is not None else np.nan
    there = ~np.isnan(accuracy).all(axis=(1, 2))
    members = there & np.array([False, True, True, False])
    return {
        "model": names,
        "class": [ALL],
        "epsilon": levels,
        "epsilon_label": [labels[level] for level in levels],
        "attack": list(ATTACKS),
        "settings": [
            "best known: the lower of autoattack and external",
            "AutoAttack, as RobustBench ran it",
            "the lowest accuracy that others have reported to RobustBench",
            "what the authors of the model report",
        ],
        "robust_accuracy": accuracy,
        "correct": np.full(shape, -1),
        "total": np.array([-1]),
        "status": np.where(there, 1, 3),
        "reason": np.where(there, "", "not published"),
        "members": members,
    }


def _contradictions(board: Leaderboard) -> list[str]:
    """Return where the files contradict themselves."""
    other = [
        name for name, row in board.entries.items() if row.get("dataset", board.dataset) != board.dataset
    ]
    notes = []
    if other:
        notes.append(
            f"The folder says {board.dataset}, the field `dataset` of {len(other)} files says otherwise "
            f"({', '.join(sorted(other))}); the folder counts."
        )
    doubtful = sorted(name for name, row in board.entries.items() if row.get("unreliable") is True)
    if doubtful:
        notes.append(f"RobustBench marks as unreliable: {', '.join(doubtful)}.")
    below = "clean_acc"
    for key in ("autoattack_acc", "external") if board.threat in NORMS else ():
        above = [
            f"{name} {row[key]} and {row[below]}"
            for name, row in sorted(board.entries.items())
            if share(row.get(key)) > share(row.get(below))
        ]
        if above:
            notes.append(f"Contradiction: `{key}` lies above the clean accuracy of {', '.join(above)}.")
    new = sorted({name for row in board.entries.values() for name in row if name and name not in KNOWN})
    if new:
        notes.append(f"Fields kept as written and not interpreted: {', '.join(new)}.")
    return notes

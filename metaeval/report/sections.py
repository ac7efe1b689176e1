"""The parts of the page that are words and tables: trust, models, attacks, provenance."""

from __future__ import annotations

import json
import re
from typing import Any

import pandas as pd
import xarray as xr

from metaeval.analysis import shift_faces, tables, trust
from metaeval.analysis.reading import attributes, imported, models, norms
from metaeval.report import words
from metaeval.report.tables import Cell, html_table
from metaeval.report.words import escape, strong

# What a sign means; {value} is its largest value and {where} the columns that show it.
MEANINGS = {
    "zero_gradient": "gradients vanish (for up to {value} of the samples, {where}), so that gradient attacks "
    "may be blind: a sign of gradient masking",
    "loss_switched": "the cross-entropy has no gradient (for up to {value} of the samples, {where}), as with "
    "very large logits or a step in the model; the attack went on with the DLR loss",
    "randomised": "the model answers differently when asked twice ({where}): one run says little about it",
    "probabilities": "outputs look like probabilities and not like logits ({where}), which weakens losses",
    "log_probabilities": "its logits are logarithms of probabilities ({where}), as of a black box or a "
    "log-softmax: distances between logits are those of these logarithms",
    "nonfinite_logits": "logits of {value} of the samples are not finite: counted as misclassified ({where})",
    "train_mode": "a module came in training mode; it was evaluated in evaluation mode ({where})",
    "buffers_changed": "the model's buffers changed while it was attacked ({where})",
    "rejected_claims": "up to {value} successes that an attack claimed were refused by the check outside it "
    "and do not count ({where})",
    "unperturbed": "an attack returned up to {value} of the samples that it attacked unchanged ({where}): of "
    "those its verdict says nothing",
    "only_black_box": "a black-box attack broke {value} of the samples that no attack with gradients broke "
    "({where}): a sign of gradient masking",
    "overruled": "an attack missed up to {value} samples at an ε where a smaller adversarial is known "
    "({where}): they count as broken",
    "skipped": "attacks do not apply to it ({where}), so that its worst case is over the others alone, and "
    "weaker than that of models to which they apply",
    "incomplete": "results are missing ({where})",
    "reduced": "settings are below the attack's standard ({where})",
    "published": "clean accuracy is off the published one by {value}",
}
BOOKKEEPING = ("selection",)  # what the aggregates cover: long, and the page shows it anyway
SHARES = ("zero_gradient", "loss_switched", "nonfinite_logits", "unperturbed", "only_black_box")


def trust_section(cube: xr.DataTree) -> str:
    """Return, for each model, what speaks against its robust accuracy."""
    if not norms(cube):
        return "<p>No attack has been run, so there is no robust accuracy to doubt.</p>"
    found: dict[str, list[str]] = {name: [] for name in models(cube)}
    for sign in trust.signs(cube):
        found.setdefault(sign.model, []).append(describe(sign))
    # What is true of every model is said once.
    shared = [
        text for text in next(iter(found.values()), []) if all(text in signs for signs in found.values())
    ]
    shared = shared if len(found) > 1 else []
    found = {name: [text for text in signs if text not in shared] for name, signs in found.items()}
    clear = [name for name, signs in found.items() if not signs]
    rows: list[list[str | Cell]] = [
        [name, Cell("; ".join(signs) + ".", kind="text")] for name, signs in found.items() if signs
    ]
    parts = [
        "<p>Every adversarial counted on this page was checked outside the attack that claimed it (label, "
        "norm, valid range). What was found beyond that:</p>"
    ]
    if shared:
        parts.append(f"<p>Of every model it holds: {escape('; '.join(shared))}.</p>")
    if rows:
        parts.append(html_table(["model", "signs of doubt"], rows, "What speaks against a model's numbers"))
    if clear:
        names = words.listing([strong(name) for name in clear], most=20)
        parts.append(
            f"<p>No {'further ' if shared else ''}sign against {names}. That is no proof: a stronger or "
            "adaptive attack may break more.</p>"
        )
    return "".join(parts)


def describe(sign: trust.Sign) -> str:
    """Return a sign in words (plain text)."""
    where = words.listing([words.column(place) for place in sign.where], most=4)
    if sign.kind == "published":
        value = words.points(sign.value)
    elif sign.kind in SHARES and sign.value <= 1:
        value = words.percent(sign.value)
    else:
        value = words.number(sign.value)
    unknown = "{kind} is {value} ({where})"
    template = MEANINGS.get(sign.kind, unknown)
    return template.format(kind=sign.kind.replace("_", " "), value=value, where=where)


def provenance_section(cube: xr.DataTree) -> str:
    """Return study, versions and hashes, the attacks' settings and the models' properties."""
    parts = []
    frame = tables.attack_table(cube)
    if not frame.empty:
        frame["norm"] = frame["norm"].map(words.norm_name)
        parts.append(
            "<h3>Attacks and their settings</h3>" + _frame(frame, "Attacks, settings, what is reduced")
        )
    if shift_faces.has_shifts(cube) and imported(cube) is None:  # what is imported was not set here
        frame = shift_faces.settings_table(cube)
        parts.append("<h3>Distribution shifts and their settings</h3>" + _frame(frame, "Shifts and settings"))
    frame = tables.model_table(cube)
    if len(frame.columns) > 1:
        parts.append("<h3>Models</h3>")
        same = [
            name for name in frame.columns[1:] if len(frame) > 1 and frame[name].nunique(dropna=False) == 1
        ]
        if same:
            said = (f"{name.replace('_', ' ')} {_value(name, frame[name].iloc[0]).text}" for name in same)
            parts.append(f"<p>The same for every model: {escape(', '.join(said))}.</p>")
        parts.append(_frame(frame.drop(columns=same), "Models and what tells them apart"))
    flat = flatten({key: value for key, value in attributes(cube).items() if key not in BOOKKEEPING})
    rows: list[list[str | Cell]] = [
        [key, Cell(value, kind="text")] for key, value in flat if not key.startswith("imported.checksums.")
    ]
    if rows:
        parts.append(
            "<h3>Study, versions, hashes</h3>"
            "<details><summary>Everything the cube records of itself</summary>"
            + html_table(["key", "value"], rows, "Attributes of the cube")
            + "</details>"
        )
    return "".join(parts)


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested content as pairs of dotted key and text."""
    if isinstance(value, dict):
        return [
            pair
            for key, part in value.items()
            for pair in flatten(part, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value):
        return [pair for place, part in enumerate(value) for pair in flatten(part, f"{prefix}[{place}]")]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)))]
    return [] if value is None or value == "" else [(prefix, str(value))]


def _frame(frame: pd.DataFrame, caption: str) -> str:
    names = [str(name) for name in frame.columns]
    rows: list[list[str | Cell]] = []
    for row in frame.itertuples(index=False, name=None):
        rows.append([str(row[0]), *(_value(*pair) for pair in zip(names[1:], row[1:], strict=True))])
    return html_table([name.replace("_", " ") for name in names], rows, caption)


def _value(name: str, value: Any) -> Cell:
    """Return a stored value: what was chosen in full, what was measured with three digits."""
    if isinstance(value, float) and value != value:
        return Cell("", kind="text")
    if isinstance(value, float):
        return Cell(words.number(value) if name.startswith("training_") else f"{value:.6g}")
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(f"{value:,}" if name == "parameters" else str(value))
    text = str(value)
    if re.fullmatch("[0-9a-f]{32,}", text):
        return Cell(text, kind="hash")
    if text.startswith("{"):  # settings, kept as JSON
        text = ", ".join(f"{key} {part}" for key, part in flatten(json.loads(text)))
    return Cell(text, kind="text")

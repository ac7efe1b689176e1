"""The page `docs/measures.md`, from the registry: ``python -m metaeval.measures.document``."""

from __future__ import annotations

from metaeval.measures.registry import measures
from metaeval.measures.spec import Measure

SIGNS = {
    1: "a larger value should go with more robustness",
    -1: "a smaller value should go with more robustness",
    0: "nothing is claimed",
}
INTRODUCTION = """\
# Generalization measures

Numbers about one trained model on one data set, which an analysis relates to its robustness. A study asks for
families or single measures:

```toml
[measures]
families = ["performance", "calibration"]
names = ["logit_margin"]
train_samples = 5000          # of the training data, drawn at random; or "all"

[measures.settings.ece]
bins = 10
```

The cube's group `/measures` holds `value`, `standard_error`, `lower` and `upper` (a 95 % interval
where the value is estimated from samples), `class_value`, `status`, `reason`, `note`, `seconds`,
`forwards` and `backwards` over (model, measure, scope). Scopes are `clean`, `train` and every shift
and attacked copy with its severity. Where there is no value the status is *undefined* (the value
does not exist for this model), *unsupported* (the measure is not made for this kind of network),
*skipped* (what it needs is not at hand), *failed* or *pending*, and the reason says why.

Below, z are logits, p probabilities (softmax), y the true class, n samples, K classes. This page is made by
`python -m metaeval.measures.document > docs/measures.md`.
"""


def page() -> str:
    """Return the page as Markdown: the measures by family, each with all that its registry entry says."""
    families: dict[str, list[type[Measure]]] = {}
    for measure in measures().values():
        families.setdefault(measure.family, []).append(measure)
    parts = [INTRODUCTION]
    for family, members in families.items():
        parts.append(f"## {family.replace('_', ' ').capitalize()}\n")
        parts += [_entry(measure) for measure in members]
    return "\n".join(parts)


def _entry(measure: type[Measure]) -> str:
    settings = [_setting(measure, name) for name in measure.settings]
    where = "for every scope" if measure.scoped else "once per model"
    if "attacked_logits" in measure.needs:
        where = "for every attacked copy"
    rows = {
        "Settings": ", ".join(settings),
        "Needs": f"{', '.join(measure.needs).replace('_', ' ')}; computed {where}",
        "Unchanged by": ", ".join(measure.invariance),
        "Expected": SIGNS[measure.expected_sign],
        "Cost": measure.cost,
        "Caveats": measure.caveats.strip(),
        "Source": measure.citation,
    }
    lines = [f"- {name}: {text}" for name, text in rows.items() if text]
    sentence = measure.definition[0].upper() + measure.definition[1:]
    return f"### `{measure.name}`\n\n{sentence}.\n\n$${measure.formula}$$\n\n" + "\n".join(lines) + "\n"


def _setting(measure: type[Measure], name: str) -> str:
    default = measure.settings[name]
    shown = f'"{default}"' if isinstance(default, str) else str(default).lower()
    allowed = measure.choices.get(name)
    return f"`{name} = {shown}`" + (f" (or {', '.join(allowed)})" if allowed else "")


if __name__ == "__main__":
    print(page(), end="")

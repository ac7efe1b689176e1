"""What speaks against a robust accuracy: numeric flags of the attacks and signs in the cells, per model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from metaeval.analysis import curves
from metaeval.analysis.reading import attacks, models, norm_dataset, norms, status

FOOTNOTES = (
    "loss_switched",
    "incomplete",
    "reduced",
    "rejected_claims",
    "overruled",
    "train_mode",
    "log_probabilities",
)
SHARES = ("zero_gradient", "unperturbed", "only_black_box")
NOTABLE_SHARE = 0.01  # a sample or two of these are no sign


@dataclass(frozen=True)
class Sign:
    """One reason to doubt a model's robust accuracy.

    Attributes
    ----------
    kind : str
        A flag's name, or "reduced", "overruled", "incomplete", "published".
    where : tuple of str
        The columns that show it, as "norm attack".
    value : float
        Largest value of the flag; number of samples for "overruled"; difference for "published".
    """

    model: str
    kind: str
    where: tuple[str, ...]
    value: float

    @property
    def serious(self) -> bool:
        """Whether it may have made a number wrong, and not only calls for a footnote."""
        return self.kind not in FOOTNOTES and (self.kind not in SHARES or self.value >= NOTABLE_SHARE)


def signs(cube: xr.DataTree) -> list[Sign]:
    """Return every sign against each model's robust accuracy; an empty list proves nothing."""
    found: dict[tuple[str, str], dict[str, float]] = {}

    def note(model: object, kind: object, norm: str, attack: object, value: float) -> None:
        found.setdefault((str(model), str(kind)), {})[f"{norm} {attack}"] = value

    for norm in norms(cube):
        group = norm_dataset(cube, norm)
        words = status(cube, norm)["status"]
        for model in group["model"].values:
            for attack in attacks(cube, norm):
                if "reduced" in group.coords and str(group["reduced"].sel(attack=attack).item()):
                    note(model, "reduced", norm, attack, 1.0)
                state = words.sel(model=model, attack=attack).item()
                if state != "ok":
                    note(model, "skipped" if state == "skipped" else "incomplete", norm, attack, 1.0)
                    continue
                place = group.sel(model=model, attack=attack)
                for flag in group["flag"].values if "flags" in group else ():
                    value = float(place["flags"].sel(flag=flag))
                    if value > 0:
                        note(model, flag, norm, attack, value)
                overruled = float(place["overruled"].max()) if "overruled" in group else 0.0
                if overruled > 0:
                    note(model, "overruled", norm, attack, overruled)
    for model, difference in _published(cube).items():
        found[model, "published"] = {"clean": difference}
    order = {name: position for position, name in enumerate(models(cube))}
    return [
        Sign(model, kind, tuple(places), max(places.values(), key=abs))
        for (model, kind), places in sorted(found.items(), key=lambda item: order.get(item[0][0], 0))
    ]


def _published(cube: xr.DataTree) -> dict[str, float]:
    """Return clean accuracy minus the published one, where that lies outside a 99.9 % interval."""
    if "models" not in cube.children or "published_accuracy" not in cube.children["models"].data_vars:
        return {}
    stored = norm_dataset(cube, "models")["published_accuracy"]
    # A column that no model fills is stored as text.
    numbers = stored.dtype.kind == "f"
    published = stored if numbers else stored.copy(data=np.full(stored.shape, np.nan))
    clean = curves.clean_from_cube(cube, confidence=0.999)
    differences = {}
    for model in clean["model"].values:
        if str(model) not in {str(name) for name in published["model"].values}:
            continue
        claimed, mine = float(published.sel(model=model)), clean.sel(model=model)
        below, above = claimed < float(mine["lower"]), claimed > float(mine["upper"])  # False for NaN
        if below or above:
            differences[str(model)] = float(mine["accuracy"]) - claimed
    return differences
